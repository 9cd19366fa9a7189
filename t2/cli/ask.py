"""``t2 ask``: one prompt, answered in two passes."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2.cli import library
from t2.config.rows import OTHER, SeeingBase
from t2.stages import paths
from t2.tasks import images
from t2.tasks.prompt import Image, Message, Prompt, shown

if TYPE_CHECKING:
    from t2.adaptation.two_pass import TwoPass
    from t2.config.rows import Params


def ask(
    prompt: Annotated[str, typer.Argument(help="What to ask, as you would type it to a chat model.")],
    image: Annotated[
        list[Path] | None,
        typer.Option(help="An image file to show with the prompt, to a base that sees; repeat it for several images."),
    ] = None,
    system: Annotated[
        str,
        typer.Option(
            help="A row of `systems` in params.yaml that chooses an expert, or a mix, for a prompt; if not given, the "
            "first that is published, or in an experiment folder the first that answers without a task; with an image, "
            "the first of those whose base sees."
        ),
    ] = "",
    task: Annotated[str, typer.Option(help="For a system of few-shot search: the task whose found mix answers.")] = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest reply; the longest of the project's tasks if not given.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="An experiment folder whose experts answer, such as reports/NAME.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a prompt in two passes with the project's finished experts.

    The reply goes to standard output; which expert gave it, and why, to standard error.
    """
    # A project that is not valid says so before it says where its experts are.
    params = library.parameters(folder)
    asked: Prompt = (Message("user", prompt, tuple(map(Image, image))),) if image else prompt
    with library.shelf() if folder is None else paths.within(folder, params.taken):
        _ask(asked, params, system, task, max_new_tokens, as_json)


def _ask(prompt: Prompt, params: Params, system: str, task: str, max_new_tokens: int | None, as_json: bool) -> None:
    from t2.adaptation.spec import Settings
    from t2.stages import members

    seeing = [name for name, row in params.systems.items() if isinstance(params.bases[row.base], SeeingBase)]
    name = system or _first(params, seeing if shown(prompt) and seeing else params.systems)
    if name not in params.systems:
        raise ValueError(f"there is no system {name!r}; params.yaml has {', '.join(params.systems)}")
    base = params.systems[name].base
    _require_sight(prompt, params, name, seeing)
    basis = paths.basis(base)
    settings = Settings.of(params, [name], basis if basis.is_dir() else None)
    (spec,) = settings.systems.values()
    found, folder_of = library.held(params, name)
    library.require_base(params.bases[base])
    seed = members.chosen_seed(found)
    named = [*spec["members"], *([spec["classifier"]] if spec["classifier"] else [])]
    if not basis.is_dir():  # then bases are computed, and name no expert of a language part
        _require_made_for(base, named, params)

    from t2.adaptation.system import TwoPassSystem  # only now: what is refused above is refused at once

    answers = TwoPassSystem(
        settings,
        {adapter: folder_of(adapter, seed) for adapter in named},
        {
            **{
                search: library.search_result(params, search, seed)
                for asked, search in spec["searches"].items()
                if asked == task
            },
            **({at: library.temperature(params, at, seed)} if (at := spec["temperature"]) else {}),
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


def _first(params: Params, among: Collection[str]) -> str:
    """The system that answers where none is named: the first that is published, or else of the rows."""
    from t2.adaptation.spec import Spec

    for name in (each for each in (*params.publish.systems, *params.systems) if each in among):
        try:
            if not Spec.of(params, name).searches:
                return name
        except ValueError:
            continue
    raise ValueError(f"name a system that answers, and for few-shot search a task: {', '.join(among)}")


def _require_sight(prompt: Prompt, params: Params, system: str, seeing: Collection[str]) -> None:
    """Whether a system can be shown what a prompt shows; before anything is loaded.

    Raises:
        ValueError: Its base reads text alone.
        ImageError: An image cannot be shown; names the file.
    """
    row = params.systems[system].base
    base = params.bases[row]
    for image in shown(prompt):
        if not isinstance(base, SeeingBase):
            there = f"--system {' or '.join(seeing)}" if seeing else "--folder reports/vision; see docs/vision.md"
            raise ValueError(
                f"{image}: system {system!r} answers with the base {row!r}, which reads text alone (its row has no "
                f"`vision`); name one that sees: {there}"
            )
        images.load(image, base.vision)


def _require_made_for(base: str, adapters: Sequence[str], params: Params) -> None:
    """Whether adapters were made for a base itself.

    Raises:
        FileNotFoundError: One was made for its language part alone, which the missing basis cache would tell.
    """
    for adapter in adapters:
        if (own := params.adapters[adapter].base) != base:
            raise FileNotFoundError(
                f"there is no basis cache {paths.basis(base)}, by which {adapter}, an expert of the base {own!r}, runs "
                f"on {base!r}; `dvc repro basis@{base}` makes it"
            )


def _why(outcome: TwoPass, spec: dict[str, Any], task: str) -> str:
    if task:
        return f"few-shot search found it for {task}"
    (category,) = outcome.choice.categories
    if spec["ask"] is None:
        return "the system has no other" if len(spec["members"]) == 1 else "the system's mix for every prompt"
    classifier = spec["classifier"]
    who = f"the classifier expert {classifier}" if classifier else "the base model, asked for a category,"
    if category is None:
        return f"{who} named none, so the base model answered"
    return f"{who} called the prompt {category}" + (", which no expert serves" if category == OTHER else "")
