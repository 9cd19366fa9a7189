"""Named GPUs as their makers print them, without sparsity."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One GPU.

    Attributes:
        operations: A second in bfloat16 or float16, by matrix units.
        memory: Bytes, of 10⁹ a GB.
        source: Where the numbers stand.
    """

    operations: float
    memory: float
    source: str


GPUS = {
    "h200": Gpu(989e12, 141e9, "NVIDIA H200 datasheet, SXM"),
    "h100": Gpu(989e12, 80e9, "NVIDIA H100 datasheet, SXM"),
    "a100": Gpu(312e12, 80e9, "NVIDIA A100 datasheet, 80 GB SXM"),
    "l40s": Gpu(362e12, 48e9, "NVIDIA L40S datasheet"),
    "l4": Gpu(121e12, 24e9, "NVIDIA L4 datasheet"),
    "rtx4090": Gpu(165.2e12, 24e9, "NVIDIA Ada whitepaper"),
}
