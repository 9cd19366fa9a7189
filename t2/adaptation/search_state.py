"""A search on disk: written after each generation, read to go on exactly where it stood."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from t2.adaptation.cem import State, Step
from t2.files import replace_file

_TENSORS = ("mean", "std", "best", "random")
_OF_STEP = ("elites", "mean", "std", "best")
_NUMBERS = ("score", "loglik", "mean_score", "any_right")


def save_state(state: State, path: str | Path) -> None:
    """Writes a state as safetensors; the name stands for a whole file at any moment."""
    tensors: dict[str, Tensor] = {name: getattr(state, name) for name in _TENSORS}
    tensors["best_score"] = torch.tensor([state.score, state.loglik], dtype=torch.float64)
    for index, step in enumerate(state.history):
        for name in _OF_STEP:
            tensors[f"history.{index}.{name}"] = getattr(step, name)
        numbers = [float(getattr(step, name)) for name in _NUMBERS]
        tensors[f"history.{index}.numbers"] = torch.tensor(numbers, dtype=torch.float64)
    # Cloned, since a state may name one tensor twice and safetensors refuses shared memory.
    replace_file(path, save({name: tensor.clone() for name, tensor in tensors.items()}))


def load_state(path: str | Path) -> State:
    """Reads a state that :func:`save_state` wrote.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The file holds no state.
    """
    try:
        tensors = load_file(path)
        score, loglik = tensors["best_score"].tolist()
        length = sum(name.endswith(".numbers") for name in tensors)
        history = tuple(_step(tensors, index) for index in range(length))
        parts: dict[str, Any] = {name: tensors[name] for name in _TENSORS}
    except (SafetensorError, KeyError, ValueError) as error:
        raise ValueError(f"{path} holds no search state ({error!r}); delete it to start the search anew") from None
    return State(**parts, score=score, loglik=loglik, history=history)


def _step(tensors: dict[str, Tensor], index: int) -> Step:
    parts: dict[str, Any] = {name: tensors[f"history.{index}.{name}"] for name in _OF_STEP}
    parts |= zip(_NUMBERS, tensors[f"history.{index}.numbers"].tolist(), strict=True)
    return Step(**parts | {"any_right": bool(parts["any_right"])})
