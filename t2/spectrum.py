"""How much of a matrix its largest singular values are (paper, appendix C, figures 10 and 11).

For σ in descending order and r components::

    ratio(r) = Σ_{i ≤ r} σ_i / Σ_j σ_j

The paper calls it the variance that is captured; it is a share of the sum of singular values, not of their squares. A
random matrix stands beside each, since of those too a few components have more than their part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Of a matrix' components: r of the paper's figures, for matrices of any size."""


def singular_values(weight: Tensor) -> Tensor:
    """The singular values of an (m, n) matrix, (min(m, n),), descending, in float64.

    By the eigenvalues of its narrow Gram matrix, a fraction of an SVD's time; what that blurs is 1e-8 of the largest.
    """
    tall = weight.double() if weight.shape[0] >= weight.shape[1] else weight.double().T
    return torch.linalg.eigvalsh(tall.T @ tall).flip(0).clamp_min(0).sqrt()


def ratios(sigma: Tensor, counts: Sequence[int]) -> list[float]:
    """The share of Σσ in the largest ``count`` values, for each count.

    Args:
        sigma: (r,), descending.
        counts: From 1 to r.

    Raises:
        ValueError: All singular values are 0.
    """
    sums = sigma.double().cumsum(0)
    if not float(sums[-1]) > 0:
        raise ValueError("a matrix of zeros has no components to divide its sum among")
    return [float(sums[count - 1] / sums[-1]) for count in counts]


def spectra(weights: Iterable[tuple[str, Tensor]], seed: int) -> Iterator[dict[str, object]]:
    """The ratios of matrices, and of a random one of each one's shape.

    Args:
        weights: Each with its name.
        seed: Of the random matrices, whose entries are independent and normal.

    Yields:
        Rows with ``name``, ``weights`` (trained or random), ``rank``, ``top`` (the count), ``share`` (of
        :data:`SHARES`, which it is the nearest count to, at least 1) and ``ratio``.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in weights:
        rank = min(weight.shape)
        counts = [max(1, round(share * rank)) for share in SHARES]
        random = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        for kind, matrix in (("trained", weight), ("random", random)):
            found = ratios(singular_values(matrix), counts)
            for share, count, ratio in zip(SHARES, counts, found, strict=True):
                yield {"name": name, "weights": kind, "rank": rank, "top": count, "share": share, "ratio": ratio}
