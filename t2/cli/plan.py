"""``t2 plan``: what a run will need, before it is started."""

from __future__ import annotations

from typing import Annotated

import typer


def plan(
    profile: Annotated[str | None, typer.Argument(help="A profile; without it, params.yaml as it stands.")] = None,
    gpu: Annotated[str | None, typer.Option(help="Instead of the one that plan.gpu names.")] = None,
) -> None:
    """Says what each stage will need on a GPU: parameters, memory and operations, without any weights."""
    from t2 import config, profiles
    from t2.plan import make_plan
    from t2.plan.render import render

    params = profiles.load(profile) if profile else config.load()
    if gpu:
        params = params.model_copy(update={"plan": params.plan.model_copy(update={"gpu": gpu})})
    typer.echo(render(make_plan(params)))
