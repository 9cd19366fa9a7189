"""Stage ``classifier``: the job-classification expert, trained in the same fashion (paper, section 3.2 B)."""

from __future__ import annotations

from t2.engine.base import Sampling
from t2.stages import paths
from t2.stages.stage import open_stage
from t2.stages.train import Job, train_all
from t2.tasks.splits import CLASSIFIER


def main() -> None:
    """Trains the classifier of every seed into ``data/classifier``."""
    with open_stage("classifier") as stage:
        params = stage.params
        settings = params.classifier
        jobs = [
            Job(
                paths.seed(paths.CLASSIFIER, seed),
                params.base,
                CLASSIFIER,
                "dispatch",
                settings.recipe,
                seed,
                Sampling(settings.max_new_tokens),
            )
            for seed in params.training.seeds
        ]
        train_all(stage, jobs, paths.REPORTS / "classifier")


if __name__ == "__main__":
    main()
