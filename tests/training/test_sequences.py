from __future__ import annotations

import pytest

from t2.training.sequences import Pair, micro_batches

PAIRS = [Pair([5, 6, 7], [8, 9]), Pair([10], [11, 12, 13, 14]), Pair([20, 21], ()), Pair([3] * 6, [4])]


def test_micro_batches_hold_every_answer_once() -> None:
    assert sorted(index for rows in micro_batches(PAIRS, 2) for index in rows) == [0, 1, 3]
    assert max(len(rows) for rows in micro_batches(PAIRS, 2)) == 2
    assert micro_batches([Pair([1], ())], 2) == []


@pytest.mark.parametrize("limit", [1, 10, 14, 17, 1000])
def test_micro_batches_keep_to_a_number_of_padded_tokens(limit: int) -> None:
    lengths = [3, 9, 2, 5, 5, 7, 3, 2]
    groups = micro_batches([Pair([1] * (length - 1), [2]) for length in lengths], 6, limit)
    assert sorted(index for rows in groups for index in rows) == list(range(8))
    for rows, following in zip(groups, [*groups[1:], None], strict=True):
        assert len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= limit
        assert len(rows) <= 6
        if following:  # and none is smaller than it had to be
            assert len(rows) == 6 or (len(rows) + 1) * lengths[following[0]] > limit
