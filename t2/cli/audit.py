"""``t2 audit``: whether the results that are shown are those that were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def audit(
    folder: Annotated[
        Path | None, typer.Argument(help="An experiment folder, reports/NAME; without it, the main run.")
    ] = None,
) -> None:
    """Checks questions for overlaps, computes all tables again from the measured replies, and compares what is shown.

    Run it in the project after `make repro`. Ends with an error where something is wrong.
    """
    from t2 import config
    from t2.audit import audit
    from t2.stages import paths

    params = config.load(folder / "params.yaml", main="params.yaml") if folder else config.load()
    with paths.within(folder or Path(), params.taken):
        findings = audit(params)
    for finding in findings:
        typer.echo(f"{'WRONG' if finding.wrong else 'ok':<6}{finding.about}: {finding.found}")
    if wrong := sum(finding.wrong for finding in findings):
        raise ValueError(f"{wrong} of {len(findings)} findings are wrong; they are marked above")
