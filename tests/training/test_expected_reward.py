from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical

from t2.training import expected_reward, reinforce

OPTIONS = torch.tensor([2, 4, 5])
ANSWER = torch.tensor([4])
"""Of six tokens, three are options, one of them right; the others are of a wrong form."""


def _logits() -> torch.Tensor:
    return torch.tensor([[0.3, -0.5, 1.0, 0.2, 0.8, -1.0]], requires_grad=True)


@pytest.mark.parametrize(("right", "wrong"), [(1.0, -1.0), (1.0, 0.0)])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_it_is_the_sum_over_options_and_the_wrong_reward_for_all_else(
    right: float, wrong: float, temperature: float
) -> None:
    logits = _logits().detach()
    found = expected_reward.terms(logits, ANSWER, right=right, wrong=wrong, temperature=temperature)
    chance = (logits[0] / temperature).softmax(0)
    earned = torch.where(ANSWER == OPTIONS, right, wrong)
    expected = (chance[OPTIONS] * earned).sum() + (1 - chance[OPTIONS].sum()) * wrong
    torch.testing.assert_close(-found.policy, expected)


@pytest.mark.parametrize("baseline", ["none", "mean", "group"])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_its_gradient_is_the_mean_of_reinforce_s(baseline: reinforce.Baseline, temperature: float) -> None:
    """Over 400,000 replies of one token, by every baseline; the mean of k = 8 takes an eighth of it away."""
    samples, k = 400_000, 8
    logits = _logits()
    (minus,) = torch.autograd.grad(
        expected_reward.terms(logits, ANSWER, right=1.0, wrong=0.0, temperature=temperature).policy, logits
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        replies = Categorical(logits=logits[0].detach() / temperature).sample((samples,))
    rewards = reinforce.rewards(replies == ANSWER, 1.0, 0.0)
    sampled = reinforce.terms(
        logits.expand(samples, 6),
        replies,
        torch.arange(samples),
        reinforce.advantages(rewards, baseline, False, k),
        temperature=temperature,
    )
    (mean,) = torch.autograd.grad(sampled.loss(0.0, samples), logits)
    torch.testing.assert_close(mean / (1 - 1 / k if baseline == "group" else 1), minus, rtol=0, atol=4e-3)
    assert minus.abs().max() > 0.1


def test_its_divergence_is_that_of_a_reply_of_one_token() -> None:
    logits, base = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(2))
    tokens = torch.tensor([0, 3, 5])
    ours = expected_reward.terms(logits, tokens, right=1.0, wrong=-1.0, temperature=0.5, base_logits=base)
    sampled = reinforce.terms(
        logits, tokens, torch.arange(3), torch.ones(3), temperature=0.5, base_logits=base, direction="policy_base"
    )
    torch.testing.assert_close(ours.kl, sampled.kl)
