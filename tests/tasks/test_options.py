"""Options in another order: the same question, with the same right answer."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from t2.config.rows import Example
from t2.config.rows import Prompt as Template
from t2.tasks import choice
from t2.tasks.item import Item, Problem, read_items, write_items
from t2.tasks.options import letters, reordered
from t2.tasks.prompt import Message, messages, question

TEXTS = ("red", "green (B)", "blue")
PROBLEM = Problem(
    "p",
    {"question": "What is grass?", "options": choice.options(TEXTS)},
    "B",
    reply=choice.statement("B"),
    options=TEXTS,
)
PLAIN = Template(system=None, user="{question}\n{options}\nWhich?", examples=[], prefix=None)
SHOTS = Template(
    system="You choose.",
    user="{question}\n{options}",
    examples=[Example(user=f"{PROBLEM.fields['question']}\n{choice.options(TEXTS)}", reply="the answer is (B)")],
    prefix="The answer is (",
)


@pytest.mark.parametrize("template", [PLAIN, SHOTS], ids=["plain", "shots"])
@pytest.mark.parametrize("order", permutations(range(3)))
def test_the_answer_moves_with_its_text_and_nothing_else_changes(template: Template, order: tuple[int, ...]) -> None:
    item = PROBLEM.item(template)
    moved = reordered(item, order)
    assert moved.options == tuple(TEXTS[place] for place in order)
    assert moved.options[letters(moved).index(moved.answer)] == "green (B)"
    assert question(moved.prompt) == question(item.prompt).replace(choice.options(TEXTS), choice.options(moved.options))
    assert isinstance(moved.prompt, str) == isinstance(item.prompt, str)
    changed = [old for old, new in zip(messages(item.prompt), messages(moved.prompt), strict=True) if old != new]
    assert changed in ([], [Message("user", question(item.prompt))])
    assert reordered(moved, [order.index(place) for place in range(3)]) == Item(
        "p", item.prompt, "B", reply="", options=TEXTS, question=item.question
    )


def test_an_item_whose_options_are_not_known_is_refused() -> None:
    item = PROBLEM.item(PLAIN)
    for odd in (Item("p", item.prompt, "B"), Item("p", "What is grass?", "B", options=TEXTS)):
        with pytest.raises(ValueError, match="item p: its prompt does not hold its options once"):
            reordered(odd, [0, 1, 2])


def test_options_come_back_from_a_file_and_items_without_any_are_written_as_before(tmp_path: Path) -> None:
    items = [PROBLEM.item(SHOTS), Item("plain", "How many?", "1")]
    write_items(tmp_path / "items.jsonl", items)
    assert read_items(tmp_path / "items.jsonl") == items
    assert "options" not in (tmp_path / "items.jsonl").read_text().splitlines()[1]


def test_a_reply_is_what_comes_behind_its_opening_in_whatever_case() -> None:
    assert PROBLEM.item(SHOTS).reply == "B)"
    assert PROBLEM.item(PLAIN).reply == "the answer is (B)"
    fenced = PLAIN.model_copy(update={"prefix": "A program:\n```python\n"})
    program = Problem("p", {**PROBLEM.fields}, "", reply="```python\npass\n```")
    assert program.item(fenced).reply == "pass\n```"
