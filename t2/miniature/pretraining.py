"""Pretraining of the miniature: a small Llama on chat turns, in minutes on one core."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from t2.miniature.corpus import Sample
from t2.miniature.settings import Architecture, Optimiser
from t2.miniature.tokenizer import ASSISTANT, END, USER

_PARTS = 3
"""Parts of like length that a batch goes through the model in: each batch stays a fair mixture, with less padding."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A tokenised sample: token ids, which of them are learned, and what is put in place of some embeddings."""

    tokens: list[int]
    learned: list[bool]
    shown: Tensor | None


def build_model(architecture: Architecture, tokenizer: PreTrainedTokenizerBase, seed: int) -> LlamaForCausalLM:
    """A Llama with random weights."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=architecture.hidden,
            intermediate_size=architecture.mlp,
            num_hidden_layers=architecture.layers,
            num_attention_heads=architecture.heads,
            num_key_value_heads=architecture.kv_heads,
            max_position_embeddings=architecture.context,
            initializer_range=architecture.init_std,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def pretrain(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    samples: Sequence[Sample],
    optimiser: Optimiser,
    report: Callable[[float], None] = lambda loss: None,
    shown: Sequence[Tensor | None] | None = None,
    image_token: int = -1,
) -> None:
    """Trains a model in place, one pass over the samples in their order.

    The same samples, seed and number of threads give the same weights on the same machine.

    Args:
        model: The model to train.
        tokenizer: Its tokenizer.
        samples: ``optimiser.steps × optimiser.batch`` chat turns.
        optimiser: Learning rates and the like.
        report: Called with the loss after each step.
        shown: Of each sample the features of its picture, (tokens of a picture, hidden); None: it has none.
        image_token: The token whose embeddings the features stand in for, as often as there are features.
    """
    pictures = shown or [None] * len(samples)
    rows = [_row(sample, picture, tokenizer) for sample, picture in zip(samples, pictures, strict=True)]
    matrices = [parameter for parameter in model.model.layers.parameters() if parameter.ndim == 2]
    optimisers, schedules = muon_and_adamw(model, matrices, optimiser)
    model.train()
    for start in range(0, len(rows), optimiser.batch):
        batch = rows[start : start + optimiser.batch]
        loss = sum(
            _backward(model, part, sum(sum(row.learned) for row in batch), image_token) for part in _parts(batch)
        )
        nn.utils.clip_grad_norm_(model.parameters(), optimiser.clip)
        for rule, schedule in zip(optimisers, schedules, strict=True):
            rule.step()
            schedule.step()
        model.zero_grad(set_to_none=True)
        report(loss)
    model.eval()


def _row(sample: Sample, picture: Tensor | None, tokenizer: PreTrainedTokenizerBase) -> _Row:
    row = _Row([], [], picture)
    turn = [(USER, False), (sample.prompt, False), (ASSISTANT, False), *sample.reply, (END, True)]
    for text, learned in turn:
        tokens = tokenizer.encode(text, add_special_tokens=False)
        row.tokens.extend(tokens)
        row.learned.extend([learned] * len(tokens))
    return row


def _parts(batch: Sequence[_Row]) -> Iterator[Sequence[_Row]]:
    rows = sorted(batch, key=lambda row: len(row.tokens))
    size = -(-len(rows) // _PARTS)
    return (rows[first : first + size] for first in range(0, len(rows), size))


def _backward(model: LlamaForCausalLM, rows: Sequence[_Row], learned_in_batch: int, image_token: int) -> float:
    """Adds the gradient of a part's share of the batch's mean cross-entropy, over learned tokens only.

    Rows are padded on the right, where causal attention needs no mask.
    """
    width = max(len(row.tokens) for row in rows)
    tokens = torch.tensor([row.tokens + [0] * (width - len(row.tokens)) for row in rows])
    learned = torch.tensor([row.learned + [False] * (width - len(row.learned)) for row in rows])[:, 1:]
    pictures = [row.shown for row in rows if row.shown is not None]
    if pictures:
        embedded = model.get_input_embeddings()(tokens)
        embedded[tokens == image_token] = torch.cat(pictures)
        inputs = {"inputs_embeds": embedded[:, :-1]}
    else:
        inputs = {"input_ids": tokens[:, :-1]}
    hidden = model.model(**inputs, use_cache=False).last_hidden_state
    logits = model.lm_head(hidden[learned])
    loss = F.cross_entropy(logits, tokens[:, 1:][learned], reduction="sum") / learned_in_batch
    loss.backward()
    return loss.item()


def muon_and_adamw(
    model: nn.Module, matrices: Sequence[nn.Parameter], optimiser: Optimiser
) -> tuple[list[torch.optim.Optimizer], list[torch.optim.lr_scheduler.LRScheduler]]:
    """The two optimisers of a model, with their schedules.

    Args:
        model: What is trained; parameters without ``requires_grad`` are left out.
        matrices: Its parameters that Muon takes; AdamW takes the rest.
        optimiser: Learning rates and the like.
    """
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen and p.requires_grad]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=optimiser.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=optimiser.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]

    def scale(step: int) -> float:
        falling = (optimiser.steps - step) / (optimiser.steps * optimiser.decay)
        return min(1.0, (step + 1) / (optimiser.warmup + 1), falling)

    return optimisers, [torch.optim.lr_scheduler.LambdaLR(each, scale) for each in optimisers]
