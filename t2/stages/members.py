"""Adapters and sets of them on disk: what a folder holds, said beside it, so that nobody looks for members."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path

from t2.config.rows import Params
from t2.files import replace_file
from t2.stages import paths

_ABOUT = "adapter.json"
_MEMBERS = "members.json"


@dataclass(frozen=True)
class Member:
    """A trained adapter, all seeds of it.

    Attributes:
        name: Its row.
        base: The row of the base that it was trained on.
        method: Its PEFT method, ``svf``.
        task: The row of the task that it was trained on.
        family: That task's family.
        valid_scores: The best validation score by seed, in the recipe's order.
    """

    name: str
    base: str
    method: str
    task: str
    family: str
    valid_scores: dict[int, float]


def write(name: str, params: Params, valid_scores: dict[int, float]) -> None:
    """Says beside the adapter ``adapters.<name>`` what it is."""
    row = params.adapters[name]
    recipe, family = params.recipes[row.recipe], params.tasks[row.task].family
    scores = {seed: round(score, 6) for seed, score in valid_scores.items()}
    describe(Member(name, row.base, recipe.method, row.task, family, scores))


def describe(member: Member) -> None:
    """Writes what an adapter is to where it lies."""
    replace_file(paths.adapters(member.name) / _ABOUT, json.dumps(asdict(member), indent=1) + "\n")


def read(name: str) -> Member:
    """What a trained adapter is.

    Raises:
        FileNotFoundError: It was not trained; says what trains it.
    """
    return _read(paths.adapters(name), f"dvc repro train@{name}")


def write_set(name: str, names: list[str]) -> None:
    """Says beside the set's folder which members it has, in their order."""
    replace_file(paths.members(name) / _MEMBERS, json.dumps(names) + "\n")


def read_set(name: str) -> list[Member]:
    """The members of a set, in their order.

    Raises:
        FileNotFoundError: It was not made; says what makes it.
    """
    folder, command = paths.members(name), f"dvc repro set@{name}"
    if not (folder / _MEMBERS).is_file():
        raise FileNotFoundError(f"there is no set {name!r} in {folder.parent}; `{command}` makes it")
    return [_read(folder / member, command) for member in json.loads((folder / _MEMBERS).read_text())]


def chosen_seed(members: list[Member]) -> int:
    """The seed that answers where one has to: the highest mean validation score, the first among equals.

    Members of a set are taken together, as they were searched and measured.
    """
    seeds = list(members[0].valid_scores)
    return max(seeds, key=lambda seed: statistics.fmean(member.valid_scores[seed] for member in members))


def _read(folder: Path, command: str) -> Member:
    try:
        about = json.loads((folder / _ABOUT).read_text())
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {folder / _ABOUT}; `{command}` makes it") from None
    about["valid_scores"] = {int(seed): score for seed, score in about["valid_scores"].items()}
    return Member(**about)
