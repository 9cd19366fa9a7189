"""All that a training run carries from one step to the next, and its way into a checkpoint and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from t2.seeds import derive
from t2.training.checkpoint import Checkpoint

Row = dict[str, float | int | None]


class Sampler:
    """Indices of training items: shuffled epochs one after the other, each item once in each.

    Args:
        size: The number of items.
        seed: Seeds the generator of the shuffles.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.generator = torch.Generator().manual_seed(derive(seed, "sampler"))
        self.order = torch.empty(0, dtype=torch.long)

    def take(self, count: int) -> list[int]:
        """The next ``count`` indices; a batch may reach into the next epoch."""
        while len(self.order) < count:
            self.order = torch.cat([self.order, torch.randperm(self.size, generator=self.generator)])
        taken, self.order = self.order[:count].tolist(), self.order[count:].clone()
        return taken


@dataclass
class TrainingState:
    """A run's state between two steps.

    Attributes:
        parameters: The trainable parameters by name.
        optimizer: Over these, in this order.
        sampler: Which items come next.
        rollouts: Gives the seed of each rollout.
        step: Updates taken; the learning rate follows from it.
        best: Copies of the parameters with the best validation score so far.
        best_step: After how many updates that was.
        best_score: That score, a fraction.
        stale: Validations since then, for early stopping.
        history: A row per step, beginning with the untrained start.
    """

    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    rollouts: torch.Generator
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_step: int = 0
    best_score: float = -1.0
    stale: int = 0
    history: list[Row] = field(default_factory=list)

    def note_score(self, score: float) -> None:
        """Counts a validation and keeps the parameters if it beats all earlier ones; a tie does not."""
        if score <= self.best_score:
            self.stale += 1
            return
        self.best_score, self.best_step, self.stale = score, self.step, 0
        self.best = {name: value.detach().clone() for name, value in self.parameters.items()}

    def load_best(self) -> None:
        """Puts the best parameters into the model."""
        _copy_into(self.parameters, self.best)

    def capture(self) -> Checkpoint:
        """The state as tensors and JSON, torch's global generators included."""
        moments = {
            f"optimizer.{index}.{key}": value
            for index, entry in self.optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
        tensors = {
            **{f"parameter.{name}": value.detach() for name, value in self.parameters.items()},
            **{f"best.{name}": value for name, value in self.best.items()},
            **moments,
            "sampler.order": self.sampler.order,
            "generator.sampler": self.sampler.generator.get_state(),
            "generator.rollouts": self.rollouts.get_state(),
            "generator.torch": torch.get_rng_state(),
            **{f"generator.cuda.{i}": state for i, state in enumerate(_cuda_states())},
        }
        record = {
            "step": self.step,
            "best_step": self.best_step,
            "best_score": self.best_score,
            "stale": self.stale,
            "history": self.history,
        }
        return Checkpoint({name: tensor.cpu() for name, tensor in tensors.items()}, record)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes on a captured state, torch's global generators included.

        Raises:
            ValueError: The checkpoint's parameters are not this model's.
        """
        tensors, record = checkpoint
        _copy_into(self.parameters, _below("parameter.", tensors))
        self.best = {name: value.to(self.parameters[name].device) for name, value in _below("best.", tensors).items()}
        moments: dict[int, dict[str, Tensor]] = {}
        for path, value in _below("optimizer.", tensors).items():
            index, _, key = path.partition(".")
            moments.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})

        self.step, self.stale, self.history = record["step"], record["stale"], record["history"]
        self.best_step, self.best_score = record["best_step"], record["best_score"]

        self.sampler.order = tensors["sampler.order"]
        self.sampler.generator.set_state(tensors["generator.sampler"])
        self.rollouts.set_state(tensors["generator.rollouts"])
        torch.set_rng_state(tensors["generator.torch"])
        for index, state in _below("generator.cuda.", tensors).items():
            torch.cuda.set_rng_state(state, int(index))


def _cuda_states() -> list[Tensor]:
    return torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names start with a prefix, named without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def _copy_into(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    here = {name: tuple(value.shape) for name, value in parameters.items()}
    there = {name: tuple(value.shape) for name, value in values.items()}
    if here != there:
        differing = sorted(dict(here.items() ^ there.items()))
        raise ValueError(
            f"the checkpoint is of another adapter: {differing[:3]} differ, of {len(differing)}; attach "
            "the adapter with the settings that it had, or delete the checkpoint to train anew"
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
