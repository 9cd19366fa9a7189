from __future__ import annotations

import torch
from transformers import LlamaForCausalLM

from t2.training.logits import answer_logits
from t2.training.sequences import Pair, micro_batches, pad

PAIRS = [Pair([5, 6, 7], [8, 9]), Pair([10], [11, 12, 13, 14]), Pair([20, 21], ()), Pair([3] * 6, [4])]


def test_logits_are_those_of_each_pair_alone(tiny_model: LlamaForCausalLM) -> None:
    pairs = [pair for pair in PAIRS if pair.answer]
    batch = pad(pairs)
    logits = answer_logits(tiny_model, batch)
    for row, pair in enumerate(pairs):
        alone = tiny_model(torch.tensor([[*pair.prompt, *pair.answer]])).logits[0]
        before = len(pair.prompt) - 1
        torch.testing.assert_close(
            logits[batch.sample == row], alone[before : before + len(pair.answer)], atol=1e-5, rtol=1e-4
        )
        assert batch.tokens[batch.sample == row].tolist() == list(pair.answer)


def test_the_model_is_left_as_it_was(tiny_model: LlamaForCausalLM) -> None:
    answer_logits(tiny_model, pad(PAIRS[:2]))
    assert tiny_model(torch.tensor([[1, 2, 3]])).logits.shape[:2] == (1, 3)


def test_micro_batches_hold_every_answer_once() -> None:
    assert sorted(index for rows in micro_batches(PAIRS, 2) for index in rows) == [0, 1, 3]
    assert max(len(rows) for rows in micro_batches(PAIRS, 2)) == 2
    assert micro_batches([Pair([1], ())], 2) == []
