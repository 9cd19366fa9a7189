"""``t2 adopt``: results of earlier code, where the present code gives the same."""

from __future__ import annotations

from typing import Annotated

import typer


def adopt(
    profile: Annotated[str, typer.Option(help="What the short run of both states of the code runs.")] = "brief",
) -> None:
    """Keeps the results of stages whose code has changed, if that leaves the results as they are.

    Shown by two short runs, of the commit that made the results and of this one, and by a cell of each system that is
    generated again. Then dvc.lock and the cells' keys are rewritten; otherwise nothing is.
    """
    from t2.adopting import adopt
    from t2.stages.guard import Busy

    try:
        adopted = adopt(profile, lambda line: typer.echo(line, err=True))
    except Busy as error:
        raise ValueError(str(error)) from None
    if adopted:
        typer.echo(f"adopted: {', '.join(adopted)}; `dvc repro` runs what is left, which runs no model")
    else:
        typer.echo("nothing to adopt: no stage that runs a model is due because of its code")
