from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from t2.config.rows import Budget

DEFAULTS: dict[str, Any] = {
    "algorithm": "cem",
    "objective": {"kind": "accuracy", "temperature": 0.0, "samples": 1},
    "split": "shots",
    "shots": 10,
    "draws": 2,
    "seed": 0,
    "form": "normalised",
    "granularity": "one",
    "include_base": False,
    "renormalise": True,
    "population": 32,
    "elite_share": 0.2,
    "generations": 10,
    "init_std": 0.3,
    "min_std": 0.02,
}


@pytest.fixture
def cem_settings() -> Callable[..., Budget]:
    return lambda **changes: Budget(**DEFAULTS | changes)
