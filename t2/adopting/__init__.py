"""Results that a change of code leaves as they are keep their compute: shown by equal bytes, then written down."""

from __future__ import annotations

import shutil
from pathlib import Path

from t2 import config
from t2.adopting.due import due_by_code
from t2.adopting.proof import Say, git, prove
from t2.adopting.rewrite import PREPARED, prepare, prepared, put_in_place
from t2.stages.fingerprint import declared
from t2.stages.guard import exclusive
from t2.stages.measure import plan


def adopt(profile: str, say: Say) -> list[str]:
    """Shows that the committed code leaves results as they are, and makes them those of this code.

    A short run of the code that made them and one of the present code give the same bytes; and where cells are
    concerned, the smallest of each system is generated again. Then ``dvc.lock`` and the cells' keys are rewritten.

    Args:
        profile: Of the short run.
        say: Takes a line of progress.

    Returns:
        The stages that were adopted; none where none was due by its code.

    Raises:
        ValueError: It is not so, or cannot be shown; nothing was rewritten. Or an earlier call was interrupted at
            another commit.
        Busy: Another process adopts.
    """
    if not Path("dvc.lock").is_file():
        raise ValueError("there is no dvc.lock here: adopt what `dvc repro` has made, in the project's root")
    with exclusive(PREPARED, patience=0):
        if edits := git("status", "--porcelain", "--", "t2", "dvc.yaml"):
            raise ValueError(f"commit the code first, since results name the commit:\n{edits.rstrip()}")
        params, present, record = config.load(), git("rev-parse", "HEAD").strip(), prepared()
        if record and record["at"] != present:
            raise ValueError(
                f"adopting was interrupted at commit {record['at']}: `git checkout` that, and adopt there to finish it"
            )
        due = due_by_code(outs=record is None)
        if due and not record:
            plans = plan(params, declared("measure")) if "measure" in due else []
            record = {"stages": list(due), "made": prove(params, plans, due, present, profile, say), "at": present}
            prepare(params, plans, record)
        # After an interruption: a stage that is not due any more is wholly written, or has really run since.
        if record and (stages := [stage for stage in record["stages"] if stage in due]):
            put_in_place(params, record, stages)
        shutil.rmtree(PREPARED)
    return record["stages"] if record else []
