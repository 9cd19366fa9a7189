"""Generation with transformers, in batches whose samples may each run under their own expert."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2.engine import chat
from t2.engine.attention import implementation
from t2.engine.base import Generation, Progress, Sampling, check_rows, fit_to_context
from t2.engine.decode import Decoded, Look, as_ids, decode, uniform_numbers
from t2.engine.device import SPREAD, find_device, free_linears, naming_memory
from t2.engine.likelihood import loglikelihoods, reply_loglikelihoods
from t2.engine.vision import Vision
from t2.svf.pretrained import load_config, load_model, sees
from t2.svf.quantised import Quantisation, loading_options, prepare_quantised_layers
from t2.tasks.prompt import Image, Prompt, shown

_Result = TypeVar("_Result")


class HfEngine:
    """Answers prompts with a transformers model, bare or inside a ``PeftModel``.

    Replies do not depend on how prompts are cut into batches, seeded sampling included, as far as the logits do
    not: the shape of a batch changes their last bits. Of the model's own generation settings only the
    end-of-sequence tokens are used.

    Attributes:
        model: A causal language model; running ``experts`` needs SVF attached (``t2.svf.attach``).
        tokenizer: Its tokenizer, with a chat template.
        batch_size: Prompts side by side; a call halves it for itself for as long as memory runs out.
        vision: What the model sees with; None: prompts are text.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, vision: Vision | None = None
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.vision = vision
        self._ends = chat.end_tokens(tokenizer, getattr(model, "generation_config", None))

    @property
    def context(self) -> int:
        """The most tokens that prompt and reply may have together."""
        return int(self.model.config.get_text_config().max_position_embeddings)

    def encode(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Token ids of prompts within the chat template, up to where the reply starts."""
        if self.vision is None:
            return chat.encode(self.tokenizer, prompts)
        encoded = chat.encode(self.tokenizer, prompts, sees=True)
        return [self.vision.expand(ids, prompt) for ids, prompt in zip(encoded, prompts, strict=True)]

    def inputs(self, ids: Tensor, images_of: Sequence[Sequence[Image]]) -> Mapping[str, Tensor]:
        """What the model is given; see :meth:`t2.engine.base.Engine.inputs`."""
        return as_ids(ids) if self.vision is None else self.vision.inputs(ids, images_of)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
        progress: Progress | None = None,
    ) -> list[Generation]:
        """Answers prompts, in their order; see :meth:`t2.engine.base.Engine.generate`.

        Raises:
            ValueError: ``experts`` and ``rows`` do not come together, there is not one row per prompt, the model
                has no SVF to run experts with, or ``sampling`` has ``choices``.
        """
        check_rows(prompts, experts, rows)
        if sampling.choices:
            raise ValueError("transformers holds no reply to choices; set engine.name to 'vllm', or score each choice")
        encoded = self.encode(prompts)
        results, fitting = fit_to_context(encoded, sampling, self.context, progress)
        uniforms = uniform_numbers(len(prompts), sampling)
        stopped = partial(chat.have_stopped, self.tokenizer, stop=sampling.stop) if sampling.stop else None

        def run(batch: list[int]) -> Decoded:
            with self._under(experts, rows, batch) as on_drop:
                ids = [encoded[i] for i in batch]
                look = self._look([prompts[i] for i in batch])
                return decode(self.model, ids, self._ends, sampling, uniforms[batch], on_drop, stopped, look)

        for batch, decoded in self._batches(sorted(fitting, key=lambda i: -len(encoded[i])), run):
            for i, generation in zip(batch, self._read(decoded, [encoded[i] for i in batch], sampling), strict=True):
                results[i] = generation
            if progress:
                progress(len(batch))
        return results

    def score(
        self,
        prompts: Sequence[Prompt],
        choices: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """Log-likelihoods of replies that are told apart; see :meth:`t2.engine.base.Engine.score`.

        Raises:
            ValueError: As :meth:`generate`, and if two choices are one reply.
        """
        check_rows(prompts, experts, rows)
        opening, ends = chat.parted(self.tokenizer, choices)
        encoded = [[*ids, *opening] for ids in self.encode(prompts)]
        longest = max(map(len, ends))
        fitting = [i for i, ids in enumerate(encoded) if len(ids) + longest <= self.context]
        results = [[-math.inf] * len(choices)] * len(encoded)

        def run(batch: list[int]) -> list[list[float]]:
            with self._under(experts, rows, batch) as on_batch:
                own = None if rows is None else [rows[i] for i in batch]
                ids = [encoded[i] for i in batch]
                alike = None if self.vision is None else self.vision.alike(ids)
                look = self._look([prompts[i] for i in batch])
                found = loglikelihoods(self.model, ids, ends, own, on_batch, look, alike)
            scores: list[list[float]] = found.tolist()
            return scores

        for batch, scores in self._batches(sorted(fitting, key=lambda i: -len(encoded[i])), run):
            for i, score in zip(batch, scores, strict=True):
                results[i] = score
        return results

    def read(
        self,
        prompts: Sequence[Prompt],
        replies: Sequence[str],
        *,
        experts: Mapping[str, Tensor] | None = None,
        rows: Sequence[int] | None = None,
    ) -> list[list[float]]:
        """Log-likelihoods of given replies; see :meth:`t2.engine.base.Engine.read`.

        Raises:
            ValueError: As :meth:`generate`, and if there is not one reply per prompt.
        """
        check_rows(prompts, experts, rows)
        pairs = chat.with_replies(self.tokenizer, self.encode(prompts), replies)
        lengths = [len(prompt) + len(reply) for prompt, reply in pairs]
        results: list[list[float]] = [[] for _ in pairs]

        def run(batch: list[int]) -> list[list[float]]:
            with self._under(experts, rows, batch) as on_batch:
                asked, answered = zip(*(pairs[i] for i in batch), strict=True)
                look = self._look([prompts[i] for i in batch])
                return reply_loglikelihoods(self.model, asked, answered, on_batch, look)

        order = sorted((i for i, n in enumerate(lengths) if n <= self.context), key=lambda i: -lengths[i])
        for batch, found in self._batches(order, run):
            for i, logprobs in zip(batch, found, strict=True):
                results[i] = logprobs
        return results

    def _look(self, prompts: Sequence[Prompt]) -> Look:
        return partial(self.inputs, images_of=[shown(prompt) for prompt in prompts])

    def _batches(
        self, order: Sequence[int], run: Callable[[list[int]], _Result]
    ) -> Iterator[tuple[list[int], _Result]]:
        """Runs batch after batch of ``order``, in which neighbours have like lengths, which keeps padding small.

        The longest come first, so that a batch size which memory does not allow shows at once.
        """
        start, size = 0, self.batch_size
        while start < len(order):
            batch = list(order[start : start + size])
            try:
                with naming_memory("one prompt alone is too much: shorten it, or lower its task's max_new_tokens"):
                    result = run(batch)
            except MemoryError:
                if len(batch) == 1:
                    raise
                size = len(batch) // 2
                continue
            yield batch, result
            start += len(batch)

    @contextmanager
    def _under(
        self, experts: Mapping[str, Tensor] | None, rows: Sequence[int] | None, batch: Sequence[int]
    ) -> Iterator[Callable[[Tensor], object] | None]:
        """The model in evaluation mode with the batch's experts; yields what to call when it changes.

        That takes the indices in the batch, int64 on the CPU, of the samples that are there from then on.
        """
        with _evaluating(self.model):
            if experts is None or rows is None:
                yield None
                return
            if not hasattr(self.model, "per_sample"):
                raise ValueError(f"a {type(self.model).__name__} cannot run experts; attach SVF to it (t2.svf.attach)")
            own = torch.tensor([rows[i] for i in batch])
            with self.model.per_sample(experts, own) as svf:
                yield lambda alive: svf.set_rows(own[alive])

    def _read(self, decoded: Decoded, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[Generation]:
        """Cuts replies behind what ended them and turns them into text."""
        tokens = [row[:length] for row, length in zip(decoded.tokens.tolist(), decoded.lengths.tolist(), strict=True)]
        texts = chat.decode(self.tokenizer, tokens)
        for prompt, text, ids, logprobs in zip(prompts, texts, tokens, decoded.logprobs.tolist(), strict=True):
            text, stopped = chat.cut(text, sampling.stop)
            finished = stopped or ids[-1] in self._ends
            yield Generation(text, tuple(ids), tuple(logprobs[: len(ids)]), finished, len(prompt))


def load_base(
    path: str | Path,
    dtype: str | torch.dtype,
    revision: str | None = None,
    *,
    quantisation: Quantisation | None = None,
    device: str = "cpu",
    prompting: chat.Prompting = "chat",
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a base model, in evaluation mode, and its tokenizer.

    Weights are read from safetensors only, and code that comes with a model is not run.

    Args:
        path: A local folder, or a Hugging Face id ("owner/name").
        dtype: Of the weights, such as ``"float32"``.
        revision: The commit of a Hugging Face id.
        quantisation: Of the linear layers but the output layer; None: they stay in ``dtype``.
        device: Where the model goes, as ``execution.device`` has it. ``"spread"``: accelerate divides it among GPUs;
            this was run with its hooks on a CPU, not yet on several GPUs.
        prompting: How prompts are written, as in :func:`t2.engine.chat.load_tokenizer`.

    Raises:
        FileNotFoundError: The local folder is missing, or lacks configuration, weights or tokenizer.
        ValueError: The tokenizer has no chat template or is another model's, a file is damaged, the model needs code
            of its own, or the device cannot run the quantised model.
    """
    folder = Path(path)
    if folder.is_dir():
        _check_folder(folder)
    elif folder.is_absolute() or str(path).count("/") != 1:
        raise FileNotFoundError(
            f"there is no model folder {path}; give a local folder, or a Hugging Face id as owner/name"
        )
    config = load_config(path, revision)
    tokenizer = chat.load_tokenizer(path, revision, prompting, sees=sees(config))
    attention = implementation(config)
    spread, device = device == SPREAD, find_device(device)
    options = {} if quantisation is None else loading_options(quantisation, dtype, device)
    if spread:
        options["device_map"] = "auto"
    model: Any = load_model(path, revision, dtype=dtype, attn_implementation=attention, **options)
    if spread:
        free_linears(model)
    elif quantisation is None:
        model.to(device)
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer of {path} has {len(tokenizer)} tokens and its model an embedding for {rows}: it is that of "
            "another model; copy both again"
        )
    if quantisation is not None:
        prepare_quantised_layers(model)
    return model.eval(), tokenizer


def _check_folder(folder: Path) -> None:
    needed = {"config.json": "config.json", "weights": "*.safetensors", "a tokenizer": "tokenizer.[jm]*"}
    lacking = [f"{what} ({pattern})" for what, pattern in needed.items() if not any(folder.glob(pattern))]
    if lacking:
        raise FileNotFoundError(f"{folder} is no whole model folder: it lacks {', '.join(lacking)}")


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode, in which there is no dropout; the model's own mode returns afterwards."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
