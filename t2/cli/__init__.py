"""``t2`` on the command line. Commands import what is heavy when they run, so that ``t2 --help`` answers at once."""

from __future__ import annotations

import sys

import typer

from t2.cli import expert, library
from t2.cli.adopt import adopt
from t2.cli.ask import ask
from t2.cli.audit import audit
from t2.cli.base import base
from t2.cli.plan import plan
from t2.files import require_unicode

app = typer.Typer(
    name="t2",
    help="Transformer-Squared: experts of singular values, trained by reward, chosen or mixed for each prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _prepare(context: typer.Context) -> None:
    if context.invoked_subcommand == "expert":  # ask may be told of an experiment folder
        context.with_resource(library.shelf())


app.command()(ask)
app.command()(plan)
app.command()(adopt)
app.command()(audit)
app.command()(base)
app.add_typer(expert.app, name="expert")


def main() -> None:
    """Runs a command; what it refuses is said in one line, without a traceback."""
    try:
        for argument in sys.argv:
            require_unicode(argument)  # a byte that is no UTF-8 comes as half a surrogate pair
        app()
    except (ValueError, OSError) as error:
        sys.exit(f"t2: {error}")
