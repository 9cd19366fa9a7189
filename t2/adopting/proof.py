"""That a change of code leaves results as they are: the same bytes before and after, of a short run and of cells."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException
from huggingface_hub import try_to_load_from_cache

from t2 import profiles
from t2.adopting.due import Code, code_of
from t2.config.rows import Base, Params
from t2.stages import cells, paths
from t2.stages.cells import Place
from t2.stages.measure import Plan, Worker, make_cells
from t2.stages.progress import Progress
from t2.tasks.item import read_items

Say = Callable[[str], object]
COMMITS = 30
"""So many that changed the pipeline are looked through for the one that made the results."""
PIPELINE = ("t2", "dvc.yaml", "params.yaml", "dvc.lock")
SHOWN = 10
"""Results that a refusal names."""
VARYING = ("data/runs", "data/timings", "data/predictions")
"""Outs that hold times and run ids; of the last, whose names hold the code, what became of each item is compared."""


def prove(params: Params, plans: Sequence[Plan], due: Mapping[str, Code], present: str, profile: str, say: Say) -> str:
    """Shows that a commit's code gives the results that are there.

    Args:
        params: The parameters.
        plans: All cells, where cells are concerned.
        due: The code that made the results, by stage.
        present: The commit.
        profile: Of the short run.
        say: Takes a line of progress.

    Returns:
        The commit whose code made the results.

    Raises:
        ValueError: Something differs, which is named; or there is nothing to compare with.
    """
    with tempfile.TemporaryDirectory() as folder:
        before, after, again = (Path(folder) / name for name in ("before", "after", "again"))
        made = made_by(due, before)
        _checkout(after, present)
        results = []
        for commit, checkout in ((made, before), (present, after)):
            say(f"running profile {profile} with the code of commit {commit[:10]}")
            results.append(run_briefly(checkout, profile))
        then, now = results
        differing = [name for name in dict.fromkeys([*then, *now]) if then.get(name) != now.get(name)]
        say(f"{len(then)} results of each, {len(differing)} differ")
        if not differing and plans:
            differing = differing_cells(params, plans, again, say)
    if differing:
        raise ValueError(
            f"the code of {present[:10]} gives other results than that of {made[:10]}, nothing was rewritten: "
            f"{', '.join(differing[:SHOWN])}{' and others' if differing[SHOWN:] else ''}; run {', '.join(due)} "
            "(`dvc repro`), or correct the code"
        )
    return made


def made_by(due: Mapping[str, Code], folder: Path) -> str:
    """The commit whose code made the present results; ``folder`` becomes a checkout of it.

    Raises:
        ValueError: There is none.
    """
    commits = git("log", f"-{COMMITS}", "--format=%H", "--", *PIPELINE).split()
    for commit in commits:
        _checkout(folder, commit)
        try:
            there = code_of(folder)
        except DvcException:  # a dvc.yaml that was committed broken
            continue
        if all(there.get(stage) == code for stage, code in due.items()):
            return commit
    raise ValueError(
        f"none of the last {len(commits)} commits that changed {', '.join(PIPELINE)} has the code which dvc.lock "
        f"names for {', '.join(due)}; it was never committed, so that there is nothing to compare with: `dvc repro`"
    )


def run_briefly(folder: Path, profile: str) -> dict[str, Any]:
    """Runs a checkout's pipeline on a small profile, up to its cells, and says what it made.

    Raises:
        ValueError: It failed.
    """
    profiles.write(profile, folder / "params.yaml", force=True)
    (folder / "dvc.lock").unlink(missing_ok=True)
    outside = ("DVC_", "T2_", "MLFLOW_TRACKING", "MLFLOW_EXPERIMENT")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(outside)}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {**kept, "PATH": path, "PYTHONPATH": str(folder), "DVC_NO_ANALYTICS": "1"}
    environment.setdefault("OMP_NUM_THREADS", "1")
    # What another machine has made of these inputs, or the other state, would be no evidence.
    command = [sys.executable, "-m", "dvc", "repro", "--no-run-cache", "measure"]
    if subprocess.run(command, cwd=folder, env=environment, stdin=subprocess.DEVNULL).returncode:
        raise ValueError("the short run failed, see above; nothing was rewritten")
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    outs = {out["path"]: out["md5"] for stage in stages.values() for out in stage["outs"]}
    made: dict[str, Any] = {path: md5 for path, md5 in outs.items() if not path.startswith(VARYING)}
    with paths.within(folder, frozenset()):
        return made | {f"cell {_name(cell.place)}": cells.answers(cell) for cell in cells.read_index()}


def differing_cells(params: Params, plans: Sequence[Plan], folder: Path, say: Say) -> list[str]:
    """Makes the smallest cell of each system again, in a folder, and names those that are not as they are stored.

    Systems of bases that are not on this machine are left out, which is said.
    """
    small: dict[str, Plan] = {}
    for each in sorted(plans, key=lambda plan: _size(params, plan.task)):
        small.setdefault(each.system, each)
    absent = {name for name, row in params.systems.items() if not _is_here(params.bases[row.base])}
    for system in sorted(absent & small.keys()):
        say(f"not generated again, since its base is not here: {system}")
    places = {each.place for system, each in small.items() if system not in absent}
    index = {cell.place: cell for cell in cells.read_index()}
    stored = {place: cells.answers(cell) for place, cell in index.items()}
    shared = {key for place in places for key in index[place].replies}
    # Replies of an expert that a dispatcher has reused: with those of all items, or their batches would be others.
    places |= {place for place, cell in index.items() if len(cell.replies) == 1 and shared & {*cell.replies}}
    again = [each for each in plans if each.place in places and each.system not in absent]
    with paths.within(folder, of_main(params)):
        progress = Progress("adopt", len(again))
        made = make_cells(Worker(params), again, lambda row: progress.advance("cells", made=row["made"]))
        differing = [_name(cell.place) for cell in made if cells.answers(cell) != stored[cell.place]]
    say(f"{len(made)} cells generated again, {len(differing)} differ")
    return differing


def of_main(params: Params) -> frozenset[str]:
    """All rows: a folder in which they are taken has cells of its own, and nothing else."""
    sections = ("bases", "tasks", "adapters", "sets", "searches", "temperatures")
    return frozenset(f"{section}.{row}" for section in sections for row in getattr(params, section))


def _checkout(folder: Path, commit: str) -> None:
    """Makes a folder a checkout of a commit, with a store of its own."""
    if not folder.exists():
        git("clone", "--quiet", "--shared", "--no-checkout", ".", str(folder))
    git("-C", str(folder), "checkout", "--quiet", "--force", commit)


def git(*arguments: str) -> str:
    """Output of a git command.

    Raises:
        ValueError: It failed; the message is git's.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout


def _size(params: Params, task: str) -> float:
    """Tokens that the replies of a cell may have; without replies it shows least."""
    reward = params.tasks[task].reward
    return len(read_items(paths.split(task, "test"))) * reward.max_new_tokens if reward else float("inf")


def _is_here(base: Base) -> bool:
    """Whether a base's files are on this machine, as a folder or in the hub's cache; nothing is fetched."""
    if Path(base.path).is_dir() or base.path.count("/") != 1:
        return Path(base.path).is_dir()
    return isinstance(try_to_load_from_cache(base.path, "config.json", revision=base.revision), str)


def _name(place: Place) -> str:
    return " ".join(str(part) for part in place if part is not None)
