"""Where a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate.hooks import remove_hook_from_module
from torch import nn
from transformers import PreTrainedModel

SPREAD = "spread"
"""The ``execution.device`` of a model whose decoder layers are divided among all GPUs."""


def find_device(name: str) -> str:
    """What ``execution.device`` means on this machine.

    ``"auto"`` is the GPU where there is one, else the CPU; so is ``"spread"``, for what is not a whole model. CUDA
    starts here: a process that forks workers leaves the question to them.
    """
    if name not in ("auto", SPREAD):
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out: that of a GPU, or the machine's, for which torch has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator: can't allocate" in str(error)


@contextmanager
def naming_memory(remedy: str) -> Iterator[None]:
    """Where memory runs out within it, says what needs less.

    Args:
        remedy: An imperative, with the parameters by name.

    Raises:
        MemoryError: Memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise MemoryError(f"out of memory ({str(error).splitlines()[0]}); {remedy}") from error


def free_linears(model: PreTrainedModel) -> None:
    """Takes accelerate's hooks from the linear layers within decoder layers, whose own hooks move what comes in.

    SVF takes a hooked layer for one that it must not fold.
    """
    whole = set(model._no_split_modules or ())
    for block in model.modules():
        if type(block).__name__ in whole:
            for layer in block.modules():
                if isinstance(layer, nn.Linear):
                    remove_hook_from_module(layer)
                    vars(layer).pop("forward", None)  # the class's own, which it leaves on the instance
