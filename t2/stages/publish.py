"""Stage ``publish``: the two-pass system as a registered MLflow model that answers requests."""

from __future__ import annotations

import json
from hashlib import sha256

from t2 import tracking
from t2.adaptation.system import Settings
from t2.serving import log_two_pass
from t2.stages import paths
from t2.stages.stage import open_stage, project_root

MODEL = "two-pass"


def main() -> None:
    """Logs the system and writes what it is made of to ``data/published.json``.

    The experts are those of the first seed and the α those of the first draw, which mixes them: nothing is
    chosen by a score.
    """
    with open_stage("publish") as stage:
        params = stage.params
        seed = params.training.seeds[0]
        experts = {task: paths.seed(paths.EXPERTS / task, seed) for task in params.trained}
        classifier = paths.seed(paths.CLASSIFIER, seed)
        alphas = {task: paths.draw(task, 0) / "alpha.json" for task in params.unseen}
        log_two_pass(
            stage.run.run_id,
            uri=tracking.store_uri(params.tracking, project_root()),
            name=MODEL,
            experts=experts,
            classifier=classifier,
            alphas=alphas,
            settings=Settings.of(params, paths.basis(params.base)),
        )
        parts = [
            *(folder / "adapter_model.safetensors" for folder in (*experts.values(), classifier)),
            *alphas.values(),
        ]
        content = {str(path): sha256(path.read_bytes()).hexdigest() for path in parts}
        paths.PUBLISHED.write_text(json.dumps({"model": MODEL, "content": content}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
