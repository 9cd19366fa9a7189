"""What every stage does around its work: parameters, scratch folder, one MLflow run, run file."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from t2 import config, tracking
from t2.config.rows import Params
from t2.stages import paths
from t2.stages.fingerprint import fingerprint
from t2.stages.guard import close_standard_input, die_with_pipeline, exclusive


@dataclass
class Stage:
    """An executing stage.

    Attributes:
        name: As DVC calls it, for example ``train@svf-math``.
        params: The validated parameters.
        fingerprint: Digest of the declared inputs; scratch work of other inputs is never picked up.
        scratch: Folder of work in progress. It lies outside DVC's outs, which DVC deletes before a stage
            starts, and survives a kill; it is removed when the stage succeeds.
        run: The stage's MLflow run; a resumed stage continues the run that it had.
        seconds: Named durations, written beside the run's id; only the report depends on them.
    """

    name: str
    params: Params
    fingerprint: str
    scratch: Path
    run: tracking.StageRun
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the duration of the block to :attr:`seconds`."""
        start = time.perf_counter()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.perf_counter() - start


def project_root() -> Path:
    """The main checkout, also from inside the temporary folder of a DVC experiment."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def _base_model(params: Params, name: str) -> str:
    """Path of the base model that a stage works on; those of all bases where it works on none, or several."""
    kind, _, key = name.partition("@")
    rows = {"train": params.adapters, "search": params.searches}
    base = key if kind == "basis" else rows[kind][key].base if kind in rows else None
    return ", ".join(row.path for label, row in params.bases.items() if base in (label, None))


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
    die_with_pipeline()
    params = config.load()
    digest = fingerprint(name)
    scratch = project_root() / ".t2" / "scratch" / name / digest[:16]
    with exclusive(scratch, patience=20.0):
        note = scratch / "run.json"
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
            note.write_text(json.dumps({"run_id": run.run_id}))
            stage = Stage(name, params, digest, scratch, run)
            yield stage
        stage.seconds["stage"] = time.perf_counter() - start
        record = {"stage": name, "run_id": run.run_id, "seconds": stage.seconds}
        paths.run(name).parent.mkdir(parents=True, exist_ok=True)
        paths.run(name).write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        if run.whole:  # else the next run of the stage finds here what MLflow lacks
            shutil.rmtree(scratch)
