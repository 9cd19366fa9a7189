from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from t2.config import Cem

DEFAULTS: dict[str, Any] = {
    "form": "normalised",
    "per_layer": False,
    "include_base": False,
    "renormalise": True,
    "population": 32,
    "elite_share": 0.2,
    "generations": 10,
    "init_std": 0.3,
    "min_std": 0.02,
}


@pytest.fixture
def cem_settings() -> Callable[..., Cem]:
    return lambda **changes: Cem(**DEFAULTS | changes)
