"""``t2 ask``: one prompt, answered in two passes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2.cli import library
from t2.config.rows import OTHER
from t2.stages import paths

if TYPE_CHECKING:
    from t2.adaptation.two_pass import TwoPass


def ask(
    prompt: Annotated[str, typer.Argument(help="What to ask, as you would type it to a chat model.")],
    system: Annotated[
        str,
        typer.Option(
            help="A row of `systems` in params.yaml that chooses an expert, or a mix, for a prompt; if not given, the "
            "first that is published."
        ),
    ] = "",
    task: Annotated[str, typer.Option(help="For a system of few-shot search: the task whose found mix answers.")] = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest reply; the longest of the project's tasks if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a prompt in two passes with the project's finished experts.

    The reply goes to standard output; which expert gave it, and why, to standard error.
    """
    from t2 import config
    from t2.adaptation.spec import Settings
    from t2.stages import members

    params = config.load()
    name = system or params.publish.systems[0]
    if name not in params.systems:
        raise ValueError(f"there is no system {name!r}; params.yaml has {', '.join(params.systems)}")

    base = params.systems[name].base
    basis = paths.basis(base)
    settings = Settings.of(params, [name], basis if basis.is_dir() else None)
    (spec,) = settings.systems.values()
    seed = members.chosen_seed([members.read(member) for member in spec["members"]])
    named = [*spec["members"], *([spec["classifier"]] if spec["classifier"] else [])]

    from t2.adaptation.system import TwoPassSystem  # only now: what is refused above is refused at once

    answers = TwoPassSystem(
        settings,
        {adapter: paths.adapter(adapter, seed) for adapter in named},
        {
            **{
                search: library.search_result(search, seed)
                for asked, search in spec["searches"].items()
                if asked == task
            },
            **({at: library.temperature(at, seed)} if (at := spec["temperature"]) else {}),
        },
    )
    outcome = answers.answer([prompt], name, task, max_new_tokens)
    (reply,) = outcome.generations
    if reply.too_long:
        raise ValueError(
            f"the prompt has {reply.prompt_tokens} tokens and leaves no room for a reply; shorten it, or lower "
            "--max-new-tokens"
        )
    (mixture,) = outcome.choice.mixtures
    record = {
        "text": reply.text,
        "finished": reply.finished,
        "mixture": str(mixture),
        "seed": seed,
        "why": _why(outcome, spec, task),
        "system": name,
        "first_seconds": outcome.first_seconds,
        "second_seconds": outcome.second_seconds,
    }
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    typer.echo(reply.text)
    if not reply.finished:
        typer.echo("— cut off at the longest reply; raise --max-new-tokens", err=True)
    seconds = f"{outcome.first_seconds:.2f} s + {outcome.second_seconds:.2f} s"
    typer.echo(f"— {mixture.summary} (seed {seed}): {record['why']} ({seconds})", err=True)


def _why(outcome: TwoPass, spec: dict[str, Any], task: str) -> str:
    if task:
        return f"few-shot search found it for {task}"
    (category,) = outcome.choice.categories
    if spec["ask"] is None:
        return "the system's mix for every prompt"
    classifier = spec["classifier"]
    who = f"the classifier expert {classifier}" if classifier else "the base model, asked for a category,"
    if category is None:
        return f"{who} named none, so the base model answered"
    return f"{who} called the prompt {category}" + (", which no expert serves" if category == OTHER else "")
