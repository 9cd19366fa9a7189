"""What a run will need, before it is started: parameters, memory and operations, without any weights.

A base model is built on the meta device from its configuration, the adapters are attached to it as the stages attach
them, and what they need follows from the shapes. What is assumed beyond them stands in ``plan`` of the parameters, and
in the plan's text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from t2.config.rows import Params
from t2.plan.gpus import GPUS, Gpu
from t2.plan.pipeline import Model, Stage, asked_by, plan_stages, read_models
from t2.plan.shapes import PlanError

__all__ = ["GPUS", "Plan", "PlanError", "Stage", "make_plan"]

USABLE = 0.95
"""The share of a GPU's memory that tensors may take: CUDA itself and fragmentation need the rest."""


@dataclass(frozen=True)
class Plan:
    """A plan; :func:`t2.plan.render.render` makes text of it.

    Attributes:
        params: What was planned.
        models: The base models, by their rows.
        gpu: What it was planned for.
        stages: In the order of the pipeline.
    """

    params: Params
    models: dict[str, Model]
    gpu: Gpu
    stages: list[Stage]

    @property
    def main(self) -> Model:
        """The first base model, which the others are compared with."""
        return next(iter(self.models.values()))

    @property
    def tokens(self) -> int:
        """Of a prompt and its longest reply, on the trained tasks, images among them."""
        trained = [name for name, task in self.params.tasks.items() if task.role == "trained"]
        asked = [asked_by(self.params, self.main, name) for name in trained]
        return max(one.prompt + one.reply for one in asked)

    @property
    def peak(self) -> float:
        """Bytes that the largest stage takes."""
        return max(stage.total for stage in self.stages)

    @property
    def gpus(self) -> int:
        """How many GPUs have that memory."""
        return math.ceil(self.peak / (USABLE * self.gpu.memory))


def make_plan(params: Params) -> Plan:
    """Plans all stages for the GPU that ``plan.gpu`` names.

    Raises:
        PlanError: The GPU is not known, a base model's configuration cannot be found, or it is not known what it makes
            of images.
        ValueError: A row names a layer or a module that its model does not have.
    """
    assumed = params.plan
    if assumed.gpu not in GPUS:
        raise PlanError(f"plan.gpu is {assumed.gpu!r}; known are {', '.join(GPUS)} (t2/plan/gpus.py)")
    models = read_models(params)
    return Plan(params, models, GPUS[assumed.gpu], plan_stages(params, models))
