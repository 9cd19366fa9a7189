"""Checkpoints as they come from elsewhere: real tokenizers, shards, other classes than the miniature's.

They are written from the benchmark data's folder, ``T2_DATA``: a random Mistral with the tokenizer and the files of
Mistral-7B-Instruct-v0.3, and stories260K, a trained Llama of 260K parameters.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer, MistralConfig, MistralForCausalLM
from transformers.convert_slow_tokenizer import import_protobuf
from transformers.tokenization_utils_base import generate_merges

from t2.engine import chat
from t2.tasks.choice import statement

DATA = Path(os.environ.get("T2_DATA", Path(__file__).parents[2] / "shared" / "data"))
MISSING = f"no benchmark files in {DATA}"

SPECIAL = ["<unk>", "<s>", "</s>"]
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}[INST] {{ message['content'] }}[/INST]"
    "{% else %} {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""That of Mistral-7B-Instruct-v0.3, without tools: replies follow at once, so there is no generation prompt."""
STORY_TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}"
"""A story model has no chat: a prompt is how the story starts."""
NATIVE = {
    "model.": "",
    "self_attn": "attention",
    "q_proj": "wq",
    "k_proj": "wk",
    "v_proj": "wv",
    "o_proj": "wo",
    "post_attention_layernorm": "ffn_norm",
    "input_layernorm": "attention_norm",
    "mlp": "feed_forward",
    "gate_proj": "w1",
    "down_proj": "w2",
    "up_proj": "w3",
    "embed_tokens": "tok_embeddings",
    "lm_head": "output",
}
"""What Mistral AI calls the parts of a model's names."""


class Story(NamedTuple):
    """How stories260K starts, greedily, from <s>: karpathy/llama2.c, doc/stories260K.md."""

    tokens: tuple[int, ...]
    text: str


STORY = Story(
    (403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267, 337),
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a "
    "big, red ball. She wanted to play with it, but it was too high.\nLily's mom said, \"Lily, let's go to the park.\"",
)


def write_mistral(folder: Path, *, context: int = 320, answers: bool = False) -> Path:
    """A random Mistral of 4 layers in bfloat16 shards: grouped queries, its own output head, no pad token.

    Its weights lie there a second time as Mistral AI names and orders them, with a ``params.json`` that says nothing
    of the context, as in the folder of Mistral-7B-Instruct-v0.3.

    Args:
        folder: Made if absent.
        context: The most tokens of prompt and reply together.
        answers: It replies "the answer is (X)", so that some questions of multiple choice are answered right.
    """
    config = MistralConfig(
        vocab_size=32768,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # as in Mistral Nemo, heads times head_dim is not the hidden size
        max_position_embeddings=context,
        sliding_window=None,
        initializer_range=0.15,  # large enough that the likeliest token is clearly that
        tie_word_embeddings=False,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = MistralForCausalLM(config).to(torch.bfloat16)
    tokenizer = mistral_tokenizer()
    if answers:
        _teach(model, [chat.encode_reply(tokenizer, statement(letter)) for letter in "ABCD"], prompt_end=4)
    model.save_pretrained(folder, max_shard_size="4MB")
    save_file(dict(_as_mistral_ai(model.state_dict(), 32)), folder / "consolidated.safetensors")
    native = {"dim": 96, "n_layers": 4, "head_dim": 32, "hidden_dim": 160, "n_heads": 4, "n_kv_heads": 2}
    other = {"norm_eps": config.rms_norm_eps, "vocab_size": 32768, "rope_theta": 1e4}
    (folder / "params.json").write_text(json.dumps(native | other))
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def _teach(model: MistralForCausalLM, replies: Iterable[list[int]], prompt_end: int) -> None:
    """Makes each token of the replies likely behind the one before it, which the residual stream then mostly holds."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    embedding *= 24
    pairs = {pair for reply in replies for pair in zip([prompt_end, *reply], reply, strict=False)}
    for before, after in sorted(pairs):
        head[after] += 4 * embedding[before] / embedding[before].norm()


def mistral_tokenizer() -> LlamaTokenizer:
    """The real tokenizer of Mistral's version 3, 32768 tokens, from its SentencePiece model."""
    path = DATA / "tokenizers" / "mistral_v3" / "mistral_instruct_tokenizer_240323.model.v3"
    model = import_protobuf().ModelProto()
    model.ParseFromString(path.read_bytes())
    control = [piece.piece for piece in model.pieces if piece.type == piece.CONTROL]
    tokenizer = _sentencepiece((piece.piece, piece.score) for piece in model.pieces)
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=True) for token in control])
    tokenizer.chat_template = MISTRAL_TEMPLATE
    return tokenizer


def write_stories(folder: Path) -> Path:
    """stories260K, converted from llama2.c's files: a trained Llama with grouped queries and a tied output head."""
    source = DATA / "tinyllamas" / "stories260K"
    packed = (source / "stories260K.bin").read_bytes()
    hidden, mlp, layers, heads, kv_heads, vocabulary, context = struct.unpack_from("<7i", packed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=context,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
    )
    width = hidden // heads
    shapes = {
        "model.embed_tokens": (vocabulary, hidden),
        "model.layers.{}.input_layernorm": (layers, hidden),
        "model.layers.{}.self_attn.q_proj": (layers, hidden, hidden),
        "model.layers.{}.self_attn.k_proj": (layers, kv_heads * width, hidden),
        "model.layers.{}.self_attn.v_proj": (layers, kv_heads * width, hidden),
        "model.layers.{}.self_attn.o_proj": (layers, hidden, hidden),
        "model.layers.{}.post_attention_layernorm": (layers, hidden),
        "model.layers.{}.mlp.gate_proj": (layers, mlp, hidden),
        "model.layers.{}.mlp.down_proj": (layers, hidden, mlp),
        "model.layers.{}.mlp.up_proj": (layers, mlp, hidden),
        "model.norm": (hidden,),
    }
    numbers = torch.from_numpy(np.frombuffer(packed, "<f4", offset=28).copy())
    weights, start = {}, 0
    for name, shape in shapes.items():
        end = start + int(np.prod(shape))
        stacked = numbers[start:end].view(shape)
        if name.endswith(("q_proj", "k_proj")):
            stacked = _halves_from_pairs(stacked, width)
        if "{}" in name:
            weights |= {f"{name.format(layer)}.weight": weight for layer, weight in enumerate(stacked)}
        else:
            weights[f"{name}.weight"] = stacked
        start = end
    model = LlamaForCausalLM(config)
    model.load_state_dict({**weights, "lm_head.weight": weights["model.embed_tokens.weight"]})
    model.save_pretrained(folder)
    tokenizer = _sentencepiece(_llama2c_pieces((source / "tok512.bin").read_bytes()))
    tokenizer.chat_template = STORY_TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def _as_mistral_ai(weights: Mapping[str, Tensor], width: int) -> Iterator[tuple[str, Tensor]]:
    """Weights under Mistral AI's names, rotary rows in pairs."""
    for key, weight in weights.items():
        if key.endswith(("q_proj.weight", "k_proj.weight")):
            weight = weight.view(-1, 2, width // 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        for ours, theirs in NATIVE.items():
            key = key.replace(ours, theirs)
        yield key, weight.contiguous()


def _halves_from_pairs(stacked: Tensor, width: int) -> Tensor:
    """Rows for rotary positions that turn i with i + width / 2, from rows for those that turn 2i with 2i + 1."""
    layers, rows, hidden = stacked.shape
    pairs = stacked.view(layers, rows // width, width // 2, 2, hidden)
    return pairs.transpose(2, 3).reshape(layers, rows, hidden)


def _llama2c_pieces(packed: bytes) -> Iterable[tuple[str, float]]:
    """Pieces with their scores; llama2.c writes a space for SentencePiece's sign and line breaks around <s>."""
    at = 4  # behind the longest piece's length
    index = 0
    while at < len(packed):
        score, length = struct.unpack_from("<fi", packed, at)
        text = packed[at + 8 : at + 8 + length].decode()
        yield (SPECIAL[index] if index < len(SPECIAL) else text.replace(" ", "▁"), score)
        at += 8 + length
        index += 1


def _sentencepiece(pieces: Iterable[tuple[str, float]]) -> LlamaTokenizer:
    """A byte-pair tokenizer of pieces in the order of their ids, merged by score."""
    scores = dict(pieces)
    vocabulary = {piece: index for index, piece in enumerate(scores)}
    return LlamaTokenizer(vocab=vocabulary, merges=generate_merges(vocabulary, scores))
