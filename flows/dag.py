"""What there is to run, as DVC says it: the stages, their order, and which of them changed."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "dvc.yaml"
"""The pipeline itself; an experiment folder has a file of its own."""


class DagError(ValueError):
    """A stage that DVC does not know, or a pipeline that DVC cannot read."""


class StatusBusy(DagError):
    """Another process holds a file that ``dvc status`` would read."""


@dataclass(frozen=True)
class Stage:
    """A stage of a ``dvc.yaml``; paths are relative to the project's root.

    Attributes:
        name: As DVC addresses it: ``train@svf-math``, or ``reports/x/dvc.yaml:train@svf-math``.
        file: The ``dvc.yaml`` that declares it.
        upstream: Names of the stages right before it; what these come behind is left out.
        gpu: Whether it runs the model: ``meta: {gpu: true}`` in ``dvc.yaml``.
        outs: What it makes.
        git_outs: Those that git keeps: ``cache: false``.
        persistent_outs: Those that DVC leaves in place for the next run: ``persist: true``.
    """

    name: str
    file: str
    upstream: frozenset[str]
    gpu: bool
    outs: tuple[str, ...]
    git_outs: tuple[str, ...]
    persistent_outs: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name within its file."""
        return self.name.rpartition(":")[2]


def read_dag(*files: str) -> dict[str, Stage]:
    """The stages of some files by name, each after all of its upstream ones.

    Args:
        files: Each a ``dvc.yaml``; none: the root's.

    Raises:
        DagError: DVC cannot read the pipeline, which holds DVC's own words; or a file has no stages.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import lexicographical_topological_sort, transitive_reduction

    files = files or (FILE,)
    _remove_cut_lock()
    try:
        with Repo() as repo:
            graph = repo.index.graph
            own = [stage for stage in graph if stage.path_in_repo in files]
            empty = sorted(set(files) - {stage.path_in_repo for stage in own})
            if empty:
                raise DagError(f"no stages in {', '.join(empty)}; is it there? `dvc stage list --all` names all stages")
            forward = transitive_reduction(graph.subgraph(own).reverse())

            def read(stage: Any) -> Stage:
                outs = {os.path.relpath(out.fs_path, repo.root_dir): out for out in stage.outs}
                return Stage(
                    stage.addressing,
                    stage.path_in_repo,
                    frozenset(other.addressing for other in forward.predecessors(stage)),
                    bool((stage.meta or {}).get("gpu")),
                    tuple(outs),
                    tuple(path for path, out in outs.items() if not out.use_cache),
                    tuple(path for path, out in outs.items() if out.persist),
                )

            order = lexicographical_topological_sort(forward, key=lambda stage: stage.addressing)
            return {stage.addressing: read(stage) for stage in order}
    except DvcException as error:
        raise DagError(f"DVC cannot read {', '.join(files)}: {error}; `dvc stage list --all` shows where") from error


def _remove_cut_lock() -> None:
    """Removes DVC's list of who reads and writes what, if a kill in the middle of writing it left it empty.

    DVC would refuse every run as long as it lies there.
    """
    if (lock := Path(".dvc/tmp/rwlock")).is_file() and not lock.stat().st_size:
        lock.unlink()


def changed_stages(stages: Mapping[str, Stage]) -> set[str]:
    """Which of the stages DVC calls changed, by one ``dvc status``.

    Raises:
        StatusBusy: Another process runs one of them at present.
        DagError: DVC failed otherwise.
    """
    files = sorted({stage.file for stage in stages.values()})
    done = subprocess.run(dvc("status", "--json", *files), capture_output=True, text=True, check=False)
    if "is busy" in done.stderr:
        raise StatusBusy(f"`dvc status` has to wait: {done.stderr.strip()}")
    if done.returncode:
        raise DagError(f"`dvc status` failed: {done.stderr.strip() or done.stdout.strip()}")
    # A stage of the root's file that was named stands as "name" or as "dvc.yaml:name".
    return {key.removeprefix(f"{FILE}:") for key in json.loads(done.stdout)} & stages.keys()


def due_stages(stages: Mapping[str, Stage]) -> set[str]:
    """The stages that DVC calls changed, and all of them that are made from these; raises as :func:`changed_stages`."""
    return with_downstream(stages, changed_stages(stages))


def due_before(dag: Mapping[str, Stage], file: str) -> list[str]:
    """Stages of other files that are due before those of one, in the order of the pipeline.

    Args:
        dag: The stages of that file and of those that it builds on.
        file: A ``dvc.yaml``.

    Raises:
        StatusBusy: Another process runs one of them at present.
        DagError: DVC failed otherwise.
    """
    needed = with_upstream(dag, [name for name, stage in dag.items() if stage.file == file])
    others = {name: stage for name, stage in needed.items() if stage.file != file}
    due = due_stages(others) if others else set()
    return [name for name in others if name in due]


def with_upstream(dag: Mapping[str, Stage], targets: Iterable[str]) -> dict[str, Stage]:
    """The targets and all that they are made from, in the order of the pipeline.

    Raises:
        DagError: There is no such stage.
    """
    waiting, wanted = list(targets), set[str]()
    unknown = sorted(set(waiting) - dag.keys())
    if unknown:
        raise DagError(f"no stage is called {', '.join(unknown)}; there are {', '.join(dag)}")
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += dag[name].upstream
    return {name: stage for name, stage in dag.items() if name in wanted}


def with_downstream(dag: Mapping[str, Stage], names: Collection[str]) -> set[str]:
    """The named stages and all that is made from them."""
    found = set(names)
    for name, stage in dag.items():
        if stage.upstream & found:
            found.add(name)
    return found


def dvc(*arguments: str) -> list[str]:
    """A command line of the DVC that is installed beside this Python; it waits while another one writes."""
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *arguments]


def environment() -> dict[str, str]:
    """Variables for DVC and its stages: their ``python`` is this one; nothing phones home."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "DVC_NO_ANALYTICS": "1",
        "ITERATIVE_DO_NOT_TRACK": "1",
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def main() -> None:
    """Says which stages of the main run are due before those of an experiment folder."""
    parser = argparse.ArgumentParser(prog="python -m flows.dag", description=main.__doc__)
    parser.add_argument("file", help="the folder's dvc.yaml")
    file = parser.parse_args().file
    try:
        due = due_before(read_dag(FILE, file), file)
    except DagError as error:
        sys.exit(str(error))
    print(describe_due(due, file))


def describe_due(due: Sequence[str], file: str) -> str:
    """What :func:`due_before` found, in a sentence."""
    if not due:
        return f"the main run is up to date in all that {file} builds on"
    return f"due in the main run, and not run here: {', '.join(due)}; `dvc repro {' '.join(due)}` runs them"


if __name__ == "__main__":
    main()
