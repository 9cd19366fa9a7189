"""Time and bytes of the narrow-side basis against ``torch.linalg.svd`` with U, σ and V kept in float32.

Run ``python benchmarks/basis.py [--sizes 1024x1024 4096x1024] [--threads 1]``. Both are timed in one run, on
bf16-rounded random weights; the mean of ``--repeats`` counts, after two that do not. Time is CPU time over all threads,
which other work on the machine disturbs less than wall time.
"""

from __future__ import annotations

import torch
from harness import mean_seconds, options
from torch import Tensor

from t2.svf import narrow_basis, scaled_weight

SIZES = ["512x512", "2048x512", "512x2048", "1024x1024", "4096x1024", "1024x4096"]


def compare(weight: Tensor, repeats: int) -> dict[str, float]:
    """CPU seconds and bytes of both forms, and how far the two W' for a random z are apart."""
    basis = narrow_basis(weight)
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    z = 1 + 0.1 * torch.randn(len(s))
    rebuilt = u @ torch.diag(s * z) @ vh
    ours = scaled_weight(weight, basis.q, z, basis.side)
    return {
        "narrow": mean_seconds(lambda: narrow_basis(weight), repeats),
        "full": mean_seconds(lambda: torch.linalg.svd(weight, full_matrices=False), repeats),
        "narrow_bytes": 4 * (basis.q.numel() + basis.sigma.numel()),
        "full_bytes": 4 * (u.numel() + s.numel() + vh.numel()),
        "difference": float((ours - rebuilt).norm() / rebuilt.norm()),
    }


def main() -> None:
    chosen = options(__doc__, sizes=SIZES, repeats=2, threads=1)
    torch.manual_seed(0)
    print(
        f"{'size':>12} {'svd s':>9} {'narrow s':>9} {'ratio':>6} {'svd MB':>8} {'narrow MB':>9} {'ratio':>6} {'ΔW′':>8}"
    )
    totals = {"narrow": 0.0, "full": 0.0, "narrow_bytes": 0.0, "full_bytes": 0.0}
    for size in chosen.sizes:
        m, n = map(int, size.split("x"))
        found = compare(torch.randn(m, n).bfloat16().float(), chosen.repeats)
        print_row(size, found, f"{found['difference']:8.1e}")
        totals = {name: total + found[name] for name, total in totals.items()}
    print_row("all", totals, "")


def print_row(size: str, found: dict[str, float], difference: str) -> None:
    print(
        f"{size:>12} {found['full']:9.3f} {found['narrow']:9.3f} {found['narrow'] / found['full']:6.2f} "
        f"{found['full_bytes'] / 1e6:8.1f} {found['narrow_bytes'] / 1e6:9.1f} "
        f"{found['narrow_bytes'] / found['full_bytes']:6.2f} {difference}"
    )


if __name__ == "__main__":
    main()
