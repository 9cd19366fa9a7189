"""Stage ``baselines``: every other recipe on every trained task, LoRA by next-token and by policy gradient."""

from __future__ import annotations

from t2.stages import paths
from t2.stages.stage import open_stage
from t2.stages.train import seeds, train_all


def main() -> None:
    """Trains ``baselines`` into ``data/baselines/<recipe>/<task>``."""
    with open_stage("baselines") as stage:
        params = stage.params
        jobs = [
            job
            for variant, recipe in params.baselines.items()
            for task in params.trained
            for job in seeds(params, paths.BASELINES / variant / task, params.base, task, recipe)
        ]
        train_all(stage, jobs, paths.REPORTS / "baselines")


if __name__ == "__main__":
    main()
