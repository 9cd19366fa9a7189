"""What every stage does around its work: parameters, scratch folder, one MLflow run, run file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from t2 import config, tracking
from t2.config.rows import Params
from t2.files import replace_file
from t2.stages import paths, scratch
from t2.stages.fingerprint import fingerprint
from t2.stages.guard import close_standard_input, exclusive

_ISOLATION = "isolation"


@dataclass
class Stage:
    """An executing stage.

    Attributes:
        name: As DVC calls it, for example ``train@svf-math``.
        params: The validated parameters.
        fingerprint: Digest of the declared inputs; scratch work of other inputs is never picked up.
        scratch: Folder of work in progress, see :mod:`t2.stages.scratch`.
        run: The stage's MLflow run; a resumed stage continues the run that it had.
    """

    name: str
    params: Params
    fingerprint: str
    scratch: Path
    run: tracking.StageRun

    def note_isolation(self, walls: str) -> None:
        """Keeps for the run file behind which walls programs are graded; workers may call it side by side.

        The note outlives a killed stage, as does the work that it is about.
        """
        with open(self.scratch / _ISOLATION, "a", encoding="utf-8") as file:
            file.write(f"{walls}\n")

    def isolation(self) -> list[str]:
        """All walls that were noted; none where no program was graded."""
        path = self.scratch / _ISOLATION
        return sorted(set(path.read_text(encoding="utf-8").splitlines())) if path.exists() else []


def project_root() -> Path:
    """The main checkout, also from inside the temporary folder of a DVC experiment."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def _base_model(params: Params, name: str) -> str:
    """Path of the base model that a stage works on; those of all bases where it works on none, or several."""
    kind, _, key = name.partition("@")
    match kind:
        case "basis":
            bases = [key]
        case "train":
            bases = [params.adapters[key].base]
        case "search":
            bases = [params.searches[key].base]
        case _:
            bases = list(params.bases)
    return ", ".join(params.bases[base].path for base in bases)


@contextmanager
def open_stage(name: str) -> Iterator[Stage]:
    """Validates, locks, opens the MLflow run; on success writes its run file and cleans up.

    Args:
        name: As DVC calls the stage.

    Raises:
        ConfigError: ``params.yaml`` is not valid.
        Busy: Another process executes this stage on the same inputs.
    """
    close_standard_input()
    params = config.load()
    digest = fingerprint(name)
    work = scratch.folder(project_root(), name, digest)
    with exclusive(work, patience=20.0):
        scratch.tidy(project_root(), name, digest)
        work.mkdir(exist_ok=True)
        note = work / "run.json"
        known = json.loads(note.read_text())["run_id"] if note.exists() else None
        start = time.perf_counter()
        with tracking.stage_run(
            name,
            settings=params.tracking,
            root=project_root(),
            fingerprint=digest,
            base_model=_base_model(params, name),
            run_id=known,
        ) as run:
            replace_file(note, json.dumps({"run_id": run.run_id}))
            stage = Stage(name, params, digest, work, run)
            yield stage
        record = {
            "stage": name,
            "run_id": run.run_id,
            "seconds": {"stage": time.perf_counter() - start},
            "isolation": stage.isolation(),
        }
        replace_file(paths.run(name), json.dumps(record, indent=1, sort_keys=True) + "\n")
        if run.whole:  # else the next run of the stage finds here what MLflow lacks
            scratch.finish(work)
