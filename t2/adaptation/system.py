"""Systems that were benchmarked, ready to answer: base model, experts, classifier and the mixes that were found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from t2.adaptation.first_pass import Ask
from t2.adaptation.spec import Settings, Spec
from t2.adaptation.strategies import STRATEGIES, Setting, equal_parts
from t2.adaptation.two_pass import TwoPass, answer
from t2.config.rows import AnyBase, Budget
from t2.config.rows import Engine as EngineSettings
from t2.config.rows import Prompt as Template
from t2.engine.base import Engine, Sampling
from t2.engine.select import svf_engine
from t2.files import read_json
from t2.svf import BasisCache, load_expert
from t2.svf.experts import Z
from t2.svf.language import load_onto
from t2.svf.mixture import Mixture
from t2.tasks.prompt import Prompt


class TwoPassSystem:
    """Answers prompts in two passes (paper, section 3.2).

    Args:
        settings: How it runs.
        adapters: The folder of each adapter that the systems name.
        search_results: The outcome of each search that they name: ``alpha.json``, or ``temperature.json``.

    Raises:
        FileNotFoundError: The base model is not there.
        ValueError: A folder holds no expert, or the basis belongs to other weights.
    """

    def __init__(self, settings: Settings, adapters: Mapping[str, Path], search_results: Mapping[str, Path]) -> None:
        self.settings = settings
        self.systems = {name: Spec(**spec) for name, spec in settings.systems.items()}
        cache = None if settings.basis is None else BasisCache.open(settings.basis)
        experts = {name: load_onto(path, cache) if cache else load_expert(path) for name, path in adapters.items()}
        self._adapters: dict[str, Z] = {name: expert.z for name, expert in experts.items()}
        temperatures = {spec.temperature for spec in self.systems.values()}
        self._mixtures = {name: read_mixture(path) for name, path in search_results.items() if name not in temperatures}
        self._temperatures = {
            name: read_temperature(path) for name, path in search_results.items() if name in temperatures
        }
        self._engine: Engine = svf_engine(
            TypeAdapter[Any](AnyBase).validate_python(settings.base),
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
            mixture = self._mixtures[spec.searches[task]]
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
    """The mixture that a search found, from its ``alpha.json``.

    Raises:
        ValueError: The file is damaged.
    """
    return Mixture(*_outcome(path, "alpha", "form", "renormalise"))


def read_temperature(path: Path) -> float:
    """What a search for soft dispatch found, from its ``temperature.json``; raises as :func:`read_mixture`."""
    (temperature,) = _outcome(path, "temperature")
    return float(temperature)


def _outcome(path: Path, *names: str) -> list[Any]:
    outcome = read_json(path)
    if missing := [name for name in names if name not in outcome]:
        raise ValueError(f"{path} is no outcome of a search, it lacks {', '.join(missing)}; `dvc repro` makes it again")
    return [outcome[name] for name in names]
