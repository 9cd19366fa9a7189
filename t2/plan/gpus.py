"""Named GPUs and their peaks as their makers print them, without sparsity."""

from __future__ import annotations

from typing import NamedTuple


class Gpu(NamedTuple):
    """One GPU.

    Attributes:
        model: Operations a second in bfloat16 or float16, by matrix units.
        single: In float32. Matrix units are left out: PyTorch keeps float32 products exact unless told otherwise.
        double: In float64, without matrix units.
        memory: Bytes, of 10⁹ a GB.
        bandwidth: Bytes a second.
        source: Where the numbers stand.
    """

    model: float
    single: float
    double: float
    memory: float
    bandwidth: float
    source: str


GPUS = {
    "h200": Gpu(989e12, 67e12, 34e12, 141e9, 4.8e12, "NVIDIA H200 datasheet, SXM"),
    "h100": Gpu(989e12, 67e12, 34e12, 80e9, 3.35e12, "NVIDIA H100 datasheet, SXM"),
    "a100": Gpu(312e12, 19.5e12, 9.7e12, 80e9, 2.039e12, "NVIDIA A100 datasheet, 80 GB SXM"),
    "l40s": Gpu(362e12, 91.6e12, 1.43e12, 48e9, 0.864e12, "NVIDIA L40S datasheet; float64 is 1/64 of float32"),
    "l4": Gpu(121e12, 30.3e12, 0.47e12, 24e9, 0.3e12, "NVIDIA L4 datasheet; float64 is 1/64 of float32"),
    "rtx4090": Gpu(165.2e12, 82.6e12, 1.29e12, 24e9, 1.008e12, "NVIDIA Ada whitepaper; float64 is 1/64 of float32"),
}
