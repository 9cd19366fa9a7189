"""The AI2 Reasoning Challenge (arXiv 1803.05457) in the three layouts that are in use.

AI2's own lines: https://allenai.org/data/arc. Hugging Face's ``allenai/ai2_arc``. LLM-Adapters' instructions:
https://github.com/AGI-Edgerunners/LLM-Adapters, where options and answer have to be cut out of the text.
"""

from __future__ import annotations

import re

from t2.tasks import choice
from t2.tasks.item import Problem
from t2.tasks.sources.rows import Row

_INSTRUCTION = re.compile(
    r"Please choose the correct answer to the question: (?P<stem>.*?)\n\n(?P<options>Answer1: .*?)\n\n"
    r"Answer format: (?P<labels>answer1(?:/answer[2-5])+)",
    re.DOTALL,
)


def arc(row: Row) -> Problem:
    """A problem of kind ``choice``. Options are lettered by position: some rows are labelled 1 to 4."""
    if "instruction" in row.fields:
        name, stem, texts, labels, key = _llm_adapters(row)
    else:
        name, key = row.get("id", str), row.get("answerKey", str)
        stem, texts, labels = _hugging_face(row) if isinstance(row.fields.get("question"), str) else _ai2(row)
    if len(texts) != len(labels) or not 2 <= len(labels) <= len(choice.LETTERS):
        raise row.error("choices", f"expected 2 to {len(choice.LETTERS)} labelled options, got {labels}")
    if key not in labels:
        raise row.error("answerKey", f"{key!r} is none of the labels {labels}")
    letter = choice.LETTERS[labels.index(key)]
    return Problem(
        id=name,
        fields={"question": stem, "options": choice.options(texts)},
        answer=letter,
        reply=choice.statement(letter),
        options=tuple(texts),
    )


def _ai2(row: Row) -> tuple[str, list[str], list[str]]:
    choices = row.objects("question.choices")
    texts, labels = ([entry.get(name, str) for entry in choices] for name in ("text", "label"))
    return row.get("question.stem", str), texts, labels


def _hugging_face(row: Row) -> tuple[str, list[str], list[str]]:
    return row.get("question", str), row.strings("choices.text"), row.strings("choices.label")


def _llm_adapters(row: Row) -> tuple[str, str, list[str], list[str], str]:
    match = _INSTRUCTION.fullmatch(row.get("instruction", str))
    if match is None:
        raise row.error("instruction", "not of the form `… question: …`, `Answer1: …`, `Answer format: …`")
    labels = match["labels"].split("/")
    # By label and in order: an option's own text may hold a colon or the word `answer`.
    pattern = " ".join(f"Answer{n}: (.*)" for n in range(1, len(labels) + 1))
    options = re.fullmatch(pattern, match["options"], re.DOTALL)
    if options is None:
        raise row.error("instruction", f"the options do not match the answer format {match['labels']!r}")
    # The rows have no ids, and every task's file is called train or test.
    name = f"arc-{row.path.parent.name}-{row.path.stem}-{row.number}"
    return name, match["stem"], list(options.groups()), labels, row.get("answer", str)
