"""What every stage does around its work: parameters, scratch folder, one MLflow run, run file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from t2 import config, processor, tracking
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
        name: As its ``dvc.yaml`` calls it, for example ``train@svf-math``.
        address: As DVC addresses it from the root: in an experiment folder ``reports/x/dvc.yaml:train@svf-math``.
        params: The validated parameters; in an experiment folder, with the rows that it takes from the main run.
        fingerprint: Digest of the declared inputs; scratch work of other inputs is never picked up.
        scratch: Folder of work in progress, see :mod:`t2.stages.scratch`.
        run: The stage's MLflow run; a resumed stage continues the run that it had.
    """

    name: str
    address: str
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


def _enter() -> Path:
    """Goes to the project's root, where the paths that rows name begin; the folder that the program was started in."""
    started = Path.cwd()
    # Not DVC_ROOT: an experiment that runs in a temporary folder works on the copy there.
    root = next((folder for folder in (started, *started.parents) if (folder / ".dvc").is_dir()), started)
    os.chdir(root)
    return started.relative_to(root)


def _base_model(params: Params, name: str) -> str:
    """Path of the base model that a stage works on; those of all bases where it works on none, or several."""
    kind, _, key = name.partition("@")
    match kind:
        case "basis" | "spectrum":
            bases = [key]
        case "train" | "derive":
            bases = [params.adapters[key].base]
        case "search":
            bases = [params.searches[key].base]
        case "temperature":
            bases = [params.temperatures[key].base]
        case _:
            bases = list(params.bases)
    return ", ".join(params.bases[base].path for base in bases)


@contextmanager
def open_stage(name: str) -> Iterator[Stage]:
    """Validates, locks, opens the MLflow run; on success writes its run file and cleans up.

    A program that is started in an experiment folder works at the project's root, as any other; see
    :mod:`t2.stages.paths` for where its files lie.

    Args:
        name: As the ``dvc.yaml`` in the working directory calls the stage.

    Raises:
        ConfigError: ``params.yaml`` is not valid.
        Busy: Another process executes this stage on the same inputs.
    """
    close_standard_input()
    folder = _enter()
    if folder.parts:
        params, address = config.load(folder / "params.yaml", main="params.yaml"), f"{folder}/dvc.yaml:{name}"
    else:
        params, address = config.load(), name
    digest = fingerprint(address)
    work = scratch.folder(project_root(), address, digest)
    with exclusive(work, patience=20.0), paths.within(folder, params.taken):
        scratch.tidy(project_root(), address, digest)
        work.mkdir(exist_ok=True)
        start = time.perf_counter()
        with tracking.stage_run(
            name,
            folder=str(folder) if folder.parts else None,
            settings=params.tracking,
            root=project_root(),
            fingerprint=digest,
            base_model=_base_model(params, name),
            work=scratch.name_of(work),
        ) as run:
            stage = Stage(name, address, params, digest, work, run)
            yield stage
        record = {
            "stage": name,
            "run_id": run.run_id,
            "seconds": {"stage": time.perf_counter() - start},
            "isolation": stage.isolation(),
            "processor": processor.computed_on(params.execution.device),
        }
        replace_file(paths.run(name), json.dumps(record, indent=1, sort_keys=True) + "\n")
        if run.whole:  # else the next run of the stage finds here what MLflow lacks
            scratch.finish(work)
