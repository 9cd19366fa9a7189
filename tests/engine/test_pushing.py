"""A worker's part of a matrix, as vLLM divides it; what a push does in an engine is in test_vllm.py."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from t2.engine.vllm.pushing import Part, held

WORKERS = (1, 2, 4, 8)


@pytest.mark.parametrize(("pieces", "workers"), product((1, 2, 4, 8), WORKERS))
def test_workers_hold_all_of_a_dimension_between_them_in_their_order(pieces, workers):
    total, distinct = 24 * pieces, min(pieces, workers)
    size = total // distinct
    found = [list(range(total)[held(total, size, rank, workers)]) for rank in range(workers)]
    assert all(len(part) == size for part in found)
    copies = workers // distinct
    assert all(found[rank] == found[rank // copies * copies] for rank in range(workers))
    assert [number for part in found[::copies] for number in part] == list(range(total))


@pytest.mark.parametrize("workers", WORKERS)
def test_the_parts_of_a_probe_make_up_the_products_of_the_whole(workers):
    """Parts of columns add up, with the bias of one; parts of rows follow each other."""
    generator = torch.Generator().manual_seed(workers)
    weight, bias, probe = (torch.randn(*shape, generator=generator) for shape in ((16, 24), (16,), (24,)))
    by_rows, by_columns = [], []
    for rank in range(workers):
        rows, columns = held(16, 16 // workers, rank, workers), held(24, 24 // workers, rank, workers)
        part = Part(None, rows, slice(0, 24), slice(0), probe)
        by_rows.append(part.expected(weight) + part.expected(bias))
        by_columns.append(Part(None, slice(0, 16), columns, slice(0), probe[columns]).expected(weight))
    torch.testing.assert_close(torch.cat(by_rows), weight @ probe + bias)
    torch.testing.assert_close(sum(by_columns), weight @ probe)
