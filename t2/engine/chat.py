"""A chat model's tokenizer as engines use it: prompts within the template, replies without special tokens."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from t2.svf import pretrained
from t2.tasks.prompt import Message, Prompt, messages, opening, shown

_DATE = datetime(2024, 7, 26)
"""What a chat template takes for today, Llama 3.1's own where it has no clock: no prompt changes overnight."""

_FIXED: Any = {"strftime_now": _DATE.strftime}

_PROBE = "Tom has 3 apples."


Prompting = Literal["chat", "completion"]

_COMPLETION = (
    "{% for message in messages %}{{ message.content }}"
    "{% if message.role == 'user' %}{{ '\n' }}{% else %}{{ '\n\n' }}{% endif %}{% endfor %}"
)
"""Plain text: what is asked, a line end, its reply and a blank line."""


def load_tokenizer(
    path: str | Path, revision: str | None = None, prompting: Prompting = "chat", *, sees: bool = False
) -> PreTrainedTokenizerBase:
    """Loads the tokenizer of a base model.

    Args:
        path: A local folder, or a Hugging Face id.
        revision: The commit of a Hugging Face id.
        prompting: ``chat``: prompts stand within the tokenizer's chat template. ``completion``: they are plain text
            that the model continues, whatever template it has, behind the token that begins all its texts, if any.
        sees: Whether the model has a processor, whose chat template serves where the tokenizer has none.

    Raises:
        ValueError: It is to chat, and has no chat template.
    """
    tokenizer = pretrained.load_tokenizer(path, revision)
    if prompting == "completion":
        # A template has to write it: behind one, tokenizers add no special tokens.
        begins = tokenizer.bos_token_id is not None and tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if begins else "") + _COMPLETION
    elif not tokenizer.chat_template and sees:
        tokenizer.chat_template = pretrained.load_processor(path, revision).chat_template
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {path} has no chat template; use a model that was tuned to chat, or, with tasks whose "
            "prompts show worked examples (profile prompts-completion), set its row's `prompting` to completion"
        )
    return tokenizer


def encode(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], *, sees: bool = False) -> list[list[int]]:
    """Token ids of prompts within the chat template, up to where the reply starts, or behind its given opening.

    Args:
        tokenizer: The model's.
        prompts: Texts as a user types them, or messages.
        sees: Whether these may show images, each of which the template then writes a placeholder for.

    Raises:
        ValueError: A prompt shows an image to a model of text; names its item.
    """
    if not sees and (images := [image for prompt in prompts for image in shown(prompt)]):
        raise ValueError(f"{images[0]}: shown to a model that reads text alone; name a base with `vision` in its row")
    encoded: list[list[int]] = [[]] * len(prompts)
    plain = _reads_text(tokenizer)
    for opened in (False, True):
        own = [index for index, prompt in enumerate(prompts) if bool(opening(prompt)) is opened]
        if own:
            chats = [[_turn(message, plain) for message in messages(prompts[index])] for index in own]
            found: Any = tokenizer.apply_chat_template(
                chats, add_generation_prompt=not opened, continue_final_message=opened, return_dict=True, **_FIXED
            )
            for index, ids in zip(own, found["input_ids"], strict=True):
                encoded[index] = list(ids)
    return encoded


def written(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    """A prompt within the chat template, as text, up to where the reply starts."""
    chat = [_turn(message, _reads_text(tokenizer)) for message in messages(prompt)]
    text: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False, **_FIXED)
    return str(text)


def _turn(message: Message, plain: bool) -> dict[str, Any]:
    """A message as templates read it: of plain text, or of parts, images first."""
    if plain and not message.images:
        return {"role": message.role, "content": message.content}
    parts = [{"type": "image"}] * len(message.images)
    return {"role": message.role, "content": [*parts, {"type": "text", "text": message.content}]}


def _reads_text(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a chat template writes messages of plain text; those of processors may leave out all but parts."""
    try:
        found: Any = tokenizer.apply_chat_template(
            [{"role": "user", "content": _PROBE}], add_generation_prompt=True, tokenize=False, **_FIXED
        )
    except (TemplateError, ValueError, TypeError):  # what it wants instead, the prompts themselves show
        return True
    return _PROBE in found


def encode_reply(tokenizer: PreTrainedTokenizerBase, reply: str) -> list[int]:
    """Token ids of a whole reply, with the token that ends it.

    Raises:
        ValueError: Neither chat template nor tokenizer names one.
    """
    end = end_of_turn(tokenizer)
    if end is None:
        raise ValueError("neither chat template nor tokenizer names a token that ends a reply; set tokenizer.eos_token")
    return [*tokenizer.encode(reply, add_special_tokens=False), end]


def with_replies(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[list[int]], replies: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """Encoded prompts, each with the token ids of its reply.

    Raises:
        ValueError: There is not one reply per prompt, or see :func:`encode_reply`.
    """
    if len(encoded) != len(replies):
        raise ValueError(f"each prompt has a reply: got {len(replies)} replies for {len(encoded)} prompts")
    return [(ids, encode_reply(tokenizer, reply)) for ids, reply in zip(encoded, replies, strict=True)]


def tokens_behind(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, texts: Sequence[str]) -> list[int]:
    """The token of each of some texts, as the first behind a prompt that opens the reply.

    Raises:
        ValueError: The prompt does not open the reply, a text is not one token there, or two are the same.
    """
    if not opening(prompt):
        raise ValueError("the prompt does not open the reply; give its task a prompt.prefix, and make the splits again")
    *asked, opened = messages(prompt)
    longer = [(*asked, Message("assistant", opened.content + text)) for text in texts]
    start, *whole = encode(tokenizer, [prompt, *longer], sees=True)
    ends = [ids[len(start) :] if ids[: len(start)] == start else [] for ids in whole]
    if odd := [text for text, end in zip(texts, ends, strict=True) if len(end) != 1 or ends.count(end) > 1]:
        raise ValueError(
            f"behind the opening {opening(prompt)!r}, {', '.join(map(repr, odd))} is not one token of its own; let the "
            "task's prompt.prefix end where this model's tokens part, as 'The answer is (' usually does"
        )
    return [token for (token,) in ends]


def parted(tokenizer: PreTrainedTokenizerBase, replies: Sequence[str]) -> tuple[list[int], list[list[int]]]:
    """What replies begin with, and how each goes on until it is told from all others.

    Returns:
        Token ids that all share, and those of each behind them, at least one; a single reply is there as a whole.

    Raises:
        ValueError: Two of them are one reply, or see :func:`encode_reply`.
    """
    if len(set(replies)) < len(replies) or not replies:
        raise ValueError(f"there must be a choice, and none twice; got {list(replies)}")
    whole = [encode_reply(tokenizer, reply) for reply in replies]
    if len(whole) == 1:
        return [], whole
    opening = whole[0][: shared_beginning(whole)]
    ends = [
        ids[len(opening) : 1 + max(shared_beginning([ids, other]) for other in whole if other is not ids)]
        for ids in whole
    ]
    return opening, ends


def shared_beginning(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all sequences begin with."""
    columns = enumerate(zip(*sequences, strict=False))
    return next((place for place, tokens in columns if len(set(tokens)) > 1), min(map(len, sequences)))


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the chat template writes behind a reply; where it writes none, the tokenizer's EOS, if any."""
    plain = _reads_text(tokenizer)
    chat = [_turn(Message("user", _PROBE), plain), _turn(Message("assistant", _PROBE), plain)]
    try:
        written: Any = tokenizer.apply_chat_template(chat, tokenize=False, **_FIXED)
    except (TemplateError, ValueError):  # a template that knows no replies, or none at all
        written = ""
    # A template may write what asks for the next turn, too: only what follows at once ends this one.
    behind = tokenizer.encode(written.rpartition(_PROBE)[2].lstrip(), add_special_tokens=False)
    return behind[0] if behind and behind[0] in tokenizer.added_tokens_decoder else tokenizer.eos_token_id


def encoding(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token ids of a fixed prompt and a fixed reply: what depends on how texts are encoded can depend on these."""
    return [*encode(tokenizer, [_PROBE])[0], *encode_reply(tokenizer, _PROBE)]


def decode(tokenizer: PreTrainedTokenizerBase, replies: Sequence[Sequence[int]]) -> list[str]:
    """The texts of replies given as token ids."""
    texts: Any = tokenizer.batch_decode(
        [list(reply) for reply in replies], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return list(texts)


def cut(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """A reply's text up to the first of the strings that stop it, and whether one was there."""
    end = min((at for at in map(text.find, stop) if at >= 0), default=None)
    return text[:end], end is not None


def have_stopped(
    tokenizer: PreTrainedTokenizerBase, replies: Sequence[Sequence[int]], stop: Sequence[str]
) -> list[bool]:
    """Which of the replies, given as token ids, come to one of the strings in their last tokens."""
    # A token holds a byte at least; a text's first may lose a space.
    longest = 1 + max(len(string.encode()) for string in stop)
    special = set(tokenizer.all_special_ids)
    ends = [[token for token in reply if token not in special][-longest:] for reply in replies]
    return [cut(text, stop)[1] for text in decode(tokenizer, ends)]


def end_tokens(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> frozenset[int]:
    """The template's end of a turn, the tokenizer's EOS, and what the model's generation settings name besides.

    Raises:
        ValueError: None of them names an end token.
    """
    named = getattr(generation_config, "eos_token_id", None)
    ends = {end_of_turn(tokenizer), tokenizer.eos_token_id, *(named if isinstance(named, list) else [named])} - {None}
    if not ends:
        raise ValueError("neither tokenizer nor model names an end-of-sequence token; set tokenizer.eos_token")
    return frozenset(ends)
