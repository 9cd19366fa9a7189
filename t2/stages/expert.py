"""Stage ``expert@<task>``: one SVF expert a seed, trained on one task (paper, section 3.2)."""

from __future__ import annotations

import sys

from t2.stages import paths
from t2.stages.stage import open_stage
from t2.stages.train import seeds, train_all


def main(task: str) -> None:
    """Trains the experts of ``experts.<task>`` into ``data/experts/<task>``."""
    with open_stage(f"expert@{task}") as stage:
        params = stage.params
        jobs = seeds(params, paths.EXPERTS / task, params.base, task, params.experts[task])
        train_all(stage, jobs, paths.REPORTS / "experts" / task)


if __name__ == "__main__":
    main(*sys.argv[1:])
