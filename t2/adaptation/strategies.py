"""Strategies map prompts to mixtures of experts; whoever answers prompts goes through them (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from t2.adaptation.first_pass import Ask, dispatch, likeliest, loglikelihoods
from t2.config.rows import Budget
from t2.engine.base import Engine
from t2.svf.mixture import BASE, Mixture
from t2.tasks.prompt import Prompt


@dataclass(frozen=True)
class Choice:
    """The mixture that each of B prompts is answered under.

    Attributes:
        mixtures: The distinct ones.
        rows: Which of them, per prompt.
        categories: What a first pass called each prompt; None where it named no category, or where there was none.
    """

    mixtures: tuple[Mixture, ...]
    rows: tuple[int, ...]
    categories: tuple[str | None, ...]

    @classmethod
    def same(cls, mixture: Mixture, prompts: int) -> Choice:
        """One mixture for all prompts, chosen without a first pass."""
        return cls((mixture,), (0,) * prompts, (None,) * prompts)

    def alpha(self, members: Sequence[str]) -> Tensor:
        """The weights (B, G, K + 1) of K members and, in the last column, the base model."""
        names = [*members, BASE]
        depth = max(len(next(iter(mixture.alpha.values()))) for mixture in self.mixtures)  # type: ignore[arg-type]
        table = torch.zeros(len(self.mixtures), depth, len(names))
        for row, mixture in enumerate(self.mixtures):
            for name, weights in mixture.alpha.items():
                table[row, :, names.index(name)] = torch.as_tensor(weights)
        return table[list(self.rows)]


@dataclass(frozen=True)
class Setting:
    """What a strategy may look at, beside the prompts.

    Attributes:
        families: The family of each member of the set, by its name.
        family: That of the task which the prompts belong to, where it is known.
        mixture: Of all prompts: what a search found for the task, or equal parts.
        ask: How a first pass asks for a category.
        engine: Runs the first pass.
        classifier: z (r,) by module name that it runs under; None: the base model.
        temperature: Of the categories' probabilities, where all members answer by them.
    """

    families: Mapping[str, str]
    family: str | None = None
    mixture: Mixture | None = None
    ask: Ask | None = None
    engine: Engine | None = None
    classifier: Mapping[str, Tensor] | None = None
    temperature: float | None = None


Strategy = Callable[[Setting, Sequence[Prompt]], Choice]
"""Prompts to mixtures."""


def equal_parts(members: Sequence[str], budget: Budget | None) -> Mixture:
    """The uniform mix of a set, in the form and with the members that a budget's searches have.

    Args:
        members: Of the set.
        budget: None: the normalised form, without the base model.
    """
    if budget is None:
        return Mixture.uniform(members)
    return Mixture.uniform(members, budget.form, budget.renormalise, budget.include_base)


def by_category(families: Mapping[str, str], categories: Sequence[str | None]) -> Choice:
    """One-hot mixtures: the member whose family a prompt was given; the base model for any other category.

    Args:
        families: The family of each member, by its name.
        categories: What each prompt was called.
    """
    member = {family: name for name, family in families.items()}
    names = [member.get(category or "", BASE) for category in categories]
    distinct = list(dict.fromkeys(names))
    mixtures = tuple(Mixture({name: 1.0}) for name in distinct)
    return Choice(mixtures, tuple(distinct.index(name) for name in names), tuple(categories))


def by_belief(
    families: Mapping[str, str], categories: Sequence[str], logliks: Sequence[Sequence[float]], temperature: float
) -> Choice:
    """Soft dispatch: each member weighs what its category is believed in, and the base model what is left over.

    Args:
        families: The family of each member, by its name.
        categories: What could be answered.
        logliks: How likely each category was to be named, for each prompt, in nats; all −∞ where it could not be asked.
        temperature: Near 0, the likeliest category takes all; at 1, categories weigh what the model gives them.
    """
    member = {family: name for name, family in families.items()}
    mixtures = []
    for row in torch.tensor(logliks, dtype=torch.float64).reshape(-1, len(categories)):
        alpha = dict.fromkeys([*families, BASE], 0.0)
        asked = bool(row.isfinite().any())
        shares = (row / temperature).softmax(0).tolist() if asked else [0.0] * len(categories)
        for category, share in zip(categories, shares, strict=True):
            alpha[member.get(category, BASE)] += share
        mixtures.append(Mixture(alpha if asked else {BASE: 1.0}))
    distinct = {mixture: place for place, mixture in enumerate(dict.fromkeys(mixtures))}
    rows = tuple(distinct[mixture] for mixture in mixtures)
    return Choice(tuple(distinct), rows, tuple(likeliest(logliks, categories)))


def _base(setting: Setting, prompts: Sequence[Prompt]) -> Choice:
    return Choice.same(Mixture({BASE: 1.0}), len(prompts))


def _single(setting: Setting, prompts: Sequence[Prompt]) -> Choice:
    (name,) = setting.families
    return Choice.same(Mixture({name: 1.0}), len(prompts))


def _own(setting: Setting, prompts: Sequence[Prompt]) -> Choice:
    chosen = by_category(setting.families, [setting.family] * len(prompts))
    return Choice(chosen.mixtures, chosen.rows, (None,) * len(prompts))


def _given(setting: Setting, prompts: Sequence[Prompt]) -> Choice:
    if setting.mixture is None:
        raise ValueError("no mix was searched for this task; name one that `searches` has")
    return Choice.same(setting.mixture, len(prompts))


def _dispatched(setting: Setting, prompts: Sequence[Prompt]) -> Choice:
    if setting.engine is None or setting.ask is None:
        raise ValueError("a first pass needs an engine and a way to ask")
    called = dispatch(setting.engine, prompts, setting.ask, classifier=setting.classifier)
    return by_category(setting.families, called)


def _soft(setting: Setting, prompts: Sequence[Prompt]) -> Choice:
    if setting.engine is None or setting.ask is None or setting.temperature is None:
        raise ValueError("soft dispatch needs an engine, a way to ask and a temperature")
    logliks = loglikelihoods(setting.engine, prompts, setting.ask, classifier=setting.classifier)
    return by_belief(setting.families, setting.ask.categories, logliks, setting.temperature)


STRATEGIES: dict[str, Strategy] = {
    "none": _base,
    "adapter": _single,
    "own": _own,
    "uniform": _given,
    "fewshot": _given,
    "prompt": _dispatched,
    "classifier": _dispatched,
    "soft": _soft,
}
"""The registry: what the field ``strategy`` of a system means."""
