"""Stage ``expert@<task>``: one SVF expert a seed, trained on one task (paper, section 3.2)."""

from __future__ import annotations

import sys

from t2.stages import paths
from t2.stages.stage import open_stage, write_metrics
from t2.stages.train import seeds, train_all


def main(task: str) -> None:
    """Trains the experts of ``experts.<task>`` into ``data/experts/<task>``."""
    with open_stage(f"expert@{task}") as stage:
        params = stage.params
        summary = train_all(stage, seeds(params, paths.EXPERTS / task, params.base, task, params.experts[task]))
        write_metrics(paths.REPORTS / "experts" / f"{task}.json", summary)


if __name__ == "__main__":
    main(*sys.argv[1:])
