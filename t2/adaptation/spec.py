"""What a system is and where it runs, in plain values, which whoever publishes or asks it takes from the parameters.

Without torch: what is only said of a system needs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2.config.rows import SVF, Classified, Dispatched, Found, Own, Params, Single, Soft, Uniform
from t2.tasks.classification import categories_of


@dataclass(frozen=True)
class Spec:
    """What a system is, in plain values: a logged model carries it.

    Attributes:
        strategy: A key of the registry.
        members: The adapters of its set, in the order in which they are summed.
        families: The family of each.
        ask: Fields of :class:`t2.adaptation.first_pass.Ask`; None: no first pass.
        classifier: The adapter that the first pass runs under; None: the base model.
        searches: The search whose mix answers, by the task that it was found for.
        temperature: The search for the temperature of the first pass's beliefs; None: there is none.
        budget: Fields of the budget whose form and members the uniform mix has; None: it has none.
    """

    strategy: str
    members: list[str]
    families: list[str]
    ask: dict[str, Any] | None
    classifier: str | None
    searches: dict[str, str]
    temperature: str | None
    budget: dict[str, Any] | None

    @classmethod
    def of(cls, params: Params, name: str) -> Spec:
        """That of a row of ``systems``; one adapter alone is a mix of one.

        Raises:
            ValueError: The row is none that answers a user: it has no adapter, needs to know the prompt's task, or has
                adapters of another method than SVF.
        """
        system = params.systems[name]
        members = params.adapters_of(name)
        alone = isinstance(system, Single) or (isinstance(system, Own) and len(members) == 1)
        if not alone and not isinstance(system, Dispatched | Found | Uniform):
            raise ValueError(
                f"systems.{name} has the strategy {system.strategy!r}, which does not choose an expert for a prompt; "
                "name a system that does: prompt, classifier, soft, fewshot, uniform, or one adapter alone"
            )
        if (method := params.key_of(name)[0]) != SVF:
            raise ValueError(f"systems.{name} has adapters of {method}; only SVF's answer users, name another system")
        ask = None
        if isinstance(system, Dispatched):
            task = params.tasks[system.dispatch]
            ask = {
                "template": task.prompt.model_dump(),
                "categories": categories_of(task, params.tasks),
                "max_new_tokens": task.reward.max_new_tokens if task.reward else 1,
                "reading": system.reading,
            }
        return cls(
            strategy="uniform" if alone else system.strategy,
            members=members,
            families=[params.tasks[params.adapters[member].task].family for member in members],
            ask=ask,
            classifier=system.adapter if isinstance(system, Classified) else None,
            searches={params.searches[search].task: search for search in getattr(system, "searches", [])},
            temperature=system.temperature if isinstance(system, Soft) else None,
            budget=params.budgets[system.budget].model_dump()
            if isinstance(system, Uniform) and system.budget
            else None,
        )


@dataclass(frozen=True)
class Settings:
    """Where systems run; plain values.

    Attributes:
        base: Fields of the base's row; a local folder is absolute.
        engine: Those of the engine.
        basis: The base's basis cache; None: bases are computed when the systems are loaded.
        device: As ``execution.device``.
        batch: Prompts side by side.
        max_new_tokens: The longest reply, unless a request says otherwise.
        stop: Strings that end a reply.
        systems: Fields of each :class:`Spec`, by name.
        default: Which of them answers a request that names none. MLflow keeps mappings, but not their order.
    """

    base: dict[str, Any]
    engine: dict[str, Any]
    basis: str | None
    device: str
    batch: int
    max_new_tokens: int
    stop: list[str]
    systems: dict[str, dict[str, Any]]
    default: str

    @classmethod
    def of(cls, params: Params, systems: Sequence[str], basis: Path | None) -> Settings:
        """Those of some systems of a project, over one base.

        Raises:
            ValueError: They are over several bases, or one does not answer users.
        """
        bases = {params.systems[name].base for name in systems}
        if len(bases) > 1:
            raise ValueError(f"systems of one base answer together; {', '.join(systems)} are over {sorted(bases)}")
        base = params.bases[bases.pop()]
        path = Path(base.path)
        rewards = [task.reward for task in params.tasks.values() if task.reward and task.role in ("trained", "unseen")]
        return cls(
            base={**base.model_dump(), "path": str(path.resolve()) if path.is_dir() else base.path},
            engine=params.engine.model_dump(),
            basis=None if basis is None else str(basis.resolve()),
            device=params.execution.device,
            batch=params.measure.batch,
            max_new_tokens=max(reward.max_new_tokens for reward in rewards),
            stop=list(dict.fromkeys(string for reward in rewards for string in reward.stop)),
            systems={name: vars(Spec.of(params, name)) for name in systems},
            default=systems[0],
        )
