"""``t2 ask``: one prompt, answered in two passes."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t2.cli import library
from t2.config.rows import OTHER
from t2.stages import paths

if TYPE_CHECKING:
    from t2.adaptation.two_pass import TwoPass
    from t2.config.rows import Params


class Strategy(StrEnum):
    """Who chooses the expert."""

    classifier = "classifier"
    prompt = "prompt"
    fewshot = "fewshot"


def ask(
    prompt: Annotated[str, typer.Argument(help="What to ask, as you would type it to a chat model.")],
    strategy: Annotated[
        Strategy,
        typer.Option(
            help="classifier: the classifier expert names the prompt's category. prompt: the base model does. "
            "fewshot: the mix that was found for an unseen task answers, without a first pass."
        ),
    ] = Strategy.classifier,
    task: Annotated[str, typer.Option(help="With fewshot: the unseen task whose found mix answers.")] = "",
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="The longest reply; the longest of the project's tasks if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a prompt in two passes with the project's finished experts.

    The reply goes to standard output; which expert gave it, and why, to standard error.
    """
    from t2 import config

    params = config.load()
    if task and strategy != Strategy.fewshot:
        raise ValueError(f"--task {task} names a found mix, which answers with --strategy fewshot only; add it")
    alphas = {task: library.found(task)} if strategy == Strategy.fewshot else {}
    # A found mix holds for the experts that it was searched with.
    seed = "".join(f"/seed-{json.loads(path.read_text())['expert_seed']}" for path in alphas.values())
    experts = {name: library.find(f"{name}{seed}") for name in params.trained}
    classifier = library.find("classifier") if strategy == Strategy.classifier else None

    from transformers.utils.logging import disable_progress_bar

    from t2.adaptation.system import Settings, TwoPassSystem
    from t2.engine.base import Sampling

    disable_progress_bar()

    basis = paths.basis(params.base)
    system = TwoPassSystem(
        Settings.of(params, basis if basis.is_dir() else None),
        {name: entry.folder for name, entry in experts.items()},
        None if classifier is None else classifier.folder,
        alphas,
    )
    longest = max_new_tokens or max(declared.max_new_tokens for declared in params.tasks.values())
    outcome = system.answer([prompt], Sampling(longest), strategy, task)
    (reply,) = outcome.generations
    if reply.too_long:
        raise ValueError(
            f"the prompt has {reply.prompt_tokens} tokens and leaves no room for {longest} of a reply; shorten it, or "
            "lower --max-new-tokens"
        )
    record = {
        "text": reply.text,
        "finished": reply.finished,
        **_under(params, outcome, experts),
        "why": _why(outcome, strategy, task),
        "strategy": strategy.value,
        "first_seconds": outcome.first_seconds,
        "second_seconds": outcome.second_seconds,
    }
    if as_json:
        typer.echo(json.dumps(record, ensure_ascii=False))
        return
    typer.echo(reply.text)
    under = "a mix, " + _mix(record["alpha"]) if record["alpha"] else record["expert"]
    typer.echo(f"— {under}: {record['why']} ({outcome.first_seconds:.2f} s + {outcome.second_seconds:.2f} s)", err=True)


def _under(params: Params, outcome: TwoPass, experts: dict[str, library.Entry]) -> dict[str, Any]:
    """The expert, or the α, that a reply was given under."""
    if outcome.alpha is not None:
        names = {task: entry.name for task, entry in experts.items()}
        return {"expert": None, "alpha": {names.get(task, task): weight for task, weight in outcome.alpha.items()}}
    by_family = {params.trained[task].family: entry.name for task, entry in experts.items()}
    return {"expert": by_family.get(outcome.categories[0], library.BASE), "alpha": None}


def _why(outcome: TwoPass, strategy: Strategy, task: str) -> str:
    if strategy == Strategy.fewshot:
        return f"few-shot search found it for {task}"
    who = "the classifier expert" if strategy == Strategy.classifier else "the base model, asked for a category,"
    category = outcome.categories[0]
    return f"{who} called the prompt {category}" + (", which no expert serves" if category == OTHER else "")


def _mix(alpha: dict[str, Any]) -> str:
    """α on one line; weights of several layers as their mean."""
    means = {name: sum(w) / len(w) if isinstance(w, list) else w for name, w in alpha.items()}
    return " ".join(f"{name}={weight:.3g}" for name, weight in means.items())
