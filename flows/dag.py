"""What there is to run, as DVC says it: the stages, their order, and which of them changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

FILE = "dvc.yaml"


class DagError(ValueError):
    """A stage that DVC does not know, or a pipeline that DVC cannot read."""


class StatusBusy(DagError):
    """Another process holds a file that ``dvc status`` would read."""


@dataclass(frozen=True)
class Stage:
    """A stage of ``dvc.yaml``.

    Attributes:
        name: As DVC calls it, for example ``expert@math``.
        upstream: Names of the stages right before it; what these come behind is left out.
        gpu: Whether it runs the model: ``meta: {gpu: true}`` in ``dvc.yaml``.
    """

    name: str
    upstream: frozenset[str]
    gpu: bool


def read_dag() -> dict[str, Stage]:
    """The stages of the root ``dvc.yaml`` by name, each after all of its upstream ones.

    Raises:
        DagError: DVC cannot read the pipeline; holds DVC's own words.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from networkx import lexicographical_topological_sort, transitive_reduction

    try:
        with Repo() as repo:
            graph = repo.index.graph
            own = [stage for stage in graph if stage.path_in_repo == FILE]
            forward = transitive_reduction(graph.subgraph(own).reverse())
            return {
                stage.addressing: Stage(
                    stage.addressing,
                    frozenset(other.addressing for other in forward.predecessors(stage)),
                    bool((stage.meta or {}).get("gpu")),
                )
                for stage in lexicographical_topological_sort(forward, key=lambda stage: stage.addressing)
            }
    except DvcException as error:
        raise DagError(f"DVC cannot read {FILE}: {error}; `dvc stage list` shows where") from error


def changed_stages(names: Collection[str]) -> set[str]:
    """Which of the stages DVC calls changed, by one ``dvc status``.

    Raises:
        StatusBusy: Another process runs one of them at present.
        DagError: DVC failed otherwise.
    """
    done = subprocess.run(dvc("status", "--json", FILE), capture_output=True, text=True, check=False)
    if "is busy" in done.stderr:
        raise StatusBusy(f"`dvc status` has to wait: {done.stderr.strip()}")
    if done.returncode:
        raise DagError(f"`dvc status` failed: {done.stderr.strip() or done.stdout.strip()}")
    # A stage of a file that was named stands as "name" or as "dvc.yaml:name".
    return {key.removeprefix(f"{FILE}:") for key in json.loads(done.stdout)} & set(names)


def with_upstream(dag: Mapping[str, Stage], targets: Iterable[str]) -> dict[str, Stage]:
    """The targets and all that they are made from, in the order of the pipeline.

    Raises:
        DagError: There is no such stage.
    """
    waiting, wanted = list(targets), set[str]()
    unknown = sorted(set(waiting) - dag.keys())
    if unknown:
        raise DagError(f"no stage is called {', '.join(unknown)}; {FILE} has {', '.join(dag)}")
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
    """A command line of the DVC that is installed beside this Python."""
    return [sys.executable, "-m", "dvc", *arguments]


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
