"""Stage ``control``: the experts' recipes on the control base, which was pretrained on clean data only."""

from __future__ import annotations

from t2.stages import paths
from t2.stages.stage import open_stage
from t2.stages.train import seeds, train_all


def main() -> None:
    """Trains SVF on the control base into ``data/control/<task>``; without a control base, writes nothing there."""
    with open_stage("control") as stage:
        params = stage.params
        paths.CONTROL.mkdir(parents=True, exist_ok=True)
        jobs = [
            job
            for task, recipe in params.experts.items()
            if params.control is not None
            for job in seeds(params, paths.CONTROL / task, params.control, task, recipe)
        ]
        train_all(stage, jobs, paths.REPORTS / "control")


if __name__ == "__main__":
    main()
