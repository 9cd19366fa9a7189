"""What score files call a system, and what readers see in its place, in the order of the rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from t2.config.rows import Params

BASE: Final = "base"
"""The method, and the whole name, of a base model as it is."""
ADAPTER: Final = "adapter"
"""The strategy of one adapter that answers whatever the task is; such systems have a table of their own."""


@dataclass(frozen=True)
class System:
    """A row of the tables.

    Attributes:
        base: Its base's label.
        method: The PEFT method of its adapters; :data:`BASE` where it has none.
        strategy: How it chooses among them.
        variant: Tells it from other systems of the same method and strategy.
        label: What tables and figures call it.
        family: That of its adapter's task, where the strategy is :data:`ADAPTER`.
        own: The name of the system that answers with the same adapter on that family's tasks; empty: there is none.
    """

    base: str
    method: str
    strategy: str
    variant: str
    label: str
    family: str = ""
    own: str = ""

    @property
    def name(self) -> str:
        """As comparisons write it."""
        return name_of(self.method, self.strategy, self.variant)

    @property
    def dispatcher(self) -> str:
        """As confusions write it."""
        return "/".join(filter(None, (self.strategy, self.variant)))


def name_of(method: str, strategy: str, variant: str | None) -> str:
    """A system's name in comparisons, for example ``lora/own/next_token``, from the columns of a score."""
    return BASE if method == BASE else "/".join(filter(None, (method, strategy, variant)))


def systems_of(params: Params) -> list[System]:
    """The systems that parameters list; a base's own row bears the base's label."""
    found = []
    for name, row in params.systems.items():
        base = params.bases[row.base].label
        label = base if row.strategy == "none" else row.label
        family = own = ""
        if row.strategy == ADAPTER:
            family = params.tasks[params.adapters[row.adapter].task].family
            own = next((name_of(*params.key_of(other)) for other in _owners(params, row.adapter)), "")
        found.append(System(base, *params.key_of(name), label, family, own))
    return found


def label_of(params: Params, adapter: str) -> str:
    """What an adapter was trained for: the label of the system that has it answer alone, else its recipe's name."""
    named = [name for name, row in params.systems.items() if getattr(row, "adapter", None) == adapter]
    systems = [*_owners(params, adapter), *named]
    return params.systems[systems[0]].label if systems else params.adapters[adapter].recipe


def present(systems: Sequence[System], base: str, names: Iterable[str]) -> list[System]:
    """The systems of a base that results name, in their order; those that no row describes come last, as named."""
    described = {system.name: system for system in systems if system.base == base}
    wanted = dict.fromkeys(names)
    strangers = []
    for name in wanted:
        if name not in described:
            method, strategy, variant = [*name.split("/", 2), "", ""][:3]
            strangers.append(System(base, method, strategy, variant, label=name))
    return [system for name, system in described.items() if name in wanted] + strangers


def _owners(params: Params, adapter: str) -> list[str]:
    """Systems that answer with an adapter on its own family's tasks."""
    rows = params.systems.items()
    return [name for name, row in rows if row.strategy == "own" and adapter in params.sets[row.set].members]
