"""Systems that were benchmarked, ready to answer: base model, experts, classifier and the mixes that were found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2.adaptation.dispatch import Ask
from t2.adaptation.strategies import STRATEGIES, Setting, equal_parts
from t2.adaptation.two_pass import TwoPass, answer
from t2.config.rows import Base, Budget, Classified, Dispatched, Found, Params, Soft, Uniform
from t2.config.rows import Engine as EngineSettings
from t2.config.rows import Prompt as Template
from t2.engine.base import Engine, Sampling
from t2.engine.select import svf_engine
from t2.svf import BasisCache, load_expert
from t2.svf.experts import Z
from t2.svf.mixture import Mixture
from t2.tasks.dispatch import categories_of
from t2.tasks.prompt import Prompt


@dataclass(frozen=True)
class Spec:
    """What a system is, in plain values: a logged model carries it.

    Attributes:
        strategy: A key of the registry.
        members: The adapters of its set, in the order in which they are summed.
        families: The family of each.
        ask: Fields of :class:`t2.adaptation.dispatch.Ask`; None: no first pass.
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
        """That of a row of ``systems``.

        Raises:
            ValueError: The row is none that answers a user: it has no set, or needs to know the prompt's task.
        """
        system = params.systems[name]
        if not isinstance(system, Dispatched | Found | Uniform):
            raise ValueError(
                f"systems.{name} has the strategy {system.strategy!r}, which does not choose an expert for a prompt; "
                "name a system that does: prompt, classifier, soft, fewshot or uniform"
            )
        members = params.sets[system.set].members
        ask = None
        if isinstance(system, Dispatched):
            task = params.tasks[system.dispatch]
            ask = {
                "template": task.prompt.model_dump(),
                "categories": categories_of(task, params.tasks),
                "max_new_tokens": task.reward.max_new_tokens if task.reward else 1,
                "reading": "likelihood" if isinstance(system, Soft) else system.reading,
            }
        return cls(
            strategy=system.strategy,
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


class TwoPassSystem:
    """Answers prompts in two passes (paper, section 3.2).

    Args:
        settings: How it runs.
        adapters: The folder of each adapter that the systems name.
        found: The outcome of each search that they name: ``alpha.json``, or ``temperature.json``.

    Raises:
        FileNotFoundError: The base model is not there.
        ValueError: A folder holds no expert, or the basis belongs to other weights.
    """

    def __init__(self, settings: Settings, adapters: Mapping[str, Path], found: Mapping[str, Path]) -> None:
        self.settings = settings
        self.systems = {name: Spec(**spec) for name, spec in settings.systems.items()}
        base = None if settings.basis is None else BasisCache.open(settings.basis).matrices
        self._adapters: dict[str, Z] = {name: load_expert(folder, base).z for name, folder in adapters.items()}
        temperatures = {spec.temperature for spec in self.systems.values()}
        self._found = {name: read_mixture(path) for name, path in found.items() if name not in temperatures}
        self._temperatures = {name: read_temperature(path) for name, path in found.items() if name in temperatures}
        self._engine: Engine = svf_engine(
            Base(**settings.base),
            EngineSettings(**settings.engine),
            basis=None if settings.basis is None else Path(settings.basis),
            device=settings.device,
            batch=settings.batch,
        )

    def answer(
        self, prompts: Sequence[Prompt], system: str = "", task: str = "", max_new_tokens: int | None = None
    ) -> TwoPass:
        """Answers prompts, in their order.

        Args:
            prompts: Texts as users type them.
            system: One of :attr:`systems`; empty: the default.
            task: For a system whose mixes were found for tasks: which of them.
            max_new_tokens: The longest reply; None: as the settings say.

        Raises:
            ValueError: An unknown system, or no mix for the task.
        """
        name = system or self.settings.default
        if name not in self.systems:
            raise ValueError(f"system is {name!r}; allowed: {', '.join(sorted(self.systems))}")
        spec = self.systems[name]
        if spec.searches and task not in spec.searches:
            there = ", ".join(sorted(spec.searches))
            raise ValueError(
                f"system {name!r} needs the task whose mix answers, got {task!r}; there is one for {there}"
            )
        if task and not spec.searches:
            raise ValueError(
                f"task {task!r} names a mix that was found for it, which system {name!r} has none of; {self._mixing}"
            )
        experts = {name: self._adapters[name] for name in spec.members}
        setting = Setting(
            families=dict(zip(spec.members, spec.families, strict=True)),
            mixture=self._mixture(spec, task, experts),
            ask=None if spec.ask is None else Ask(**{**spec.ask, "template": Template(**spec.ask["template"])}),
            engine=self._engine,
            classifier=None if spec.classifier is None else self._adapters[spec.classifier],
            temperature=None if spec.temperature is None else self._temperatures[spec.temperature],
        )
        longest = max_new_tokens or self.settings.max_new_tokens
        sampling = Sampling(longest, stop=tuple(self.settings.stop))
        return answer(self._engine, prompts, sampling, STRATEGIES[spec.strategy], setting, experts)

    def _mixture(self, spec: Spec, task: str, experts: Mapping[str, Z]) -> Mixture | None:
        """The mixture of all prompts, by effective weights, where a system has one."""
        if spec.strategy == "uniform":
            mixture = equal_parts(spec.members, Budget(**spec.budget) if spec.budget else None)
        elif task:
            mixture = self._found[spec.searches[task]]
        else:
            return None
        return mixture.effective(experts, self._sigma(experts) if mixture.needs_sigma else None)

    @property
    def _mixing(self) -> str:
        named = [name for name, spec in self.systems.items() if spec.searches]
        return f"name system {' or '.join(named)}" if named else "leave it out"

    def _sigma(self, experts: Mapping[str, Z]) -> Z:
        """The singular values that rescaled mixes need."""
        if self.settings.basis is None:
            raise ValueError("a free mix is rescaled by singular values: make the basis cache with `dvc repro`")
        basis = BasisCache.open(self.settings.basis)
        return {module: basis.load(module).sigma for module in next(iter(experts.values()))}


def read_mixture(path: Path) -> Mixture:
    """The mixture that a search found, from its ``alpha.json``."""
    found = json.loads(path.read_text())
    return Mixture(found["alpha"], found["form"], found["renormalise"])


def read_temperature(path: Path) -> float:
    """What a search for soft dispatch found, from its ``temperature.json``."""
    return float(json.loads(path.read_text())["temperature"])
