from __future__ import annotations

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from t2.training import reinforce


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_expected_gradient_is_that_of_the_expected_reward(generator: torch.Generator) -> None:
    """Every token once, weighted by its probability, is the expectation over samples."""
    logits = torch.randn(6, generator=generator, requires_grad=True)
    reward = torch.randn(6, generator=generator)
    probabilities = logits.softmax(0)
    (expected,) = torch.autograd.grad((probabilities * reward).sum(), logits)

    weights = probabilities.detach() * reward
    every = torch.arange(6)
    terms = reinforce.terms(logits.expand(6, 6), every, every, weights, temperature=1.0)
    (minus_j,) = torch.autograd.grad(terms.policy, logits)

    torch.testing.assert_close(-minus_j, expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_log_probabilities_are_summed_over_tokens_and_averaged_over_answers(
    generator: torch.Generator, temperature: float
) -> None:
    logits = torch.randn(5, 7, generator=generator)
    tokens = torch.tensor([0, 3, 6, 2, 2])
    terms = reinforce.terms(
        logits, tokens, torch.tensor([0, 0, 0, 1, 1]), torch.tensor([1.0, -2.0]), temperature=temperature
    )
    log_probs = Categorical(logits=logits / temperature).log_prob(tokens)
    expected = (1.0 * log_probs[:3].sum() - 2.0 * log_probs[3:].sum()) / 2
    torch.testing.assert_close(-terms.loss(0.3, batch=2), expected)


def test_greedy_rollouts_take_log_probabilities_at_temperature_one(generator: torch.Generator) -> None:
    logits, index = torch.randn(1, 7, generator=generator), torch.tensor([0])
    greedy, sampled = (
        reinforce.terms(logits, index, index, torch.ones(1), temperature=temperature).policy
        for temperature in (0.0, 1.0)
    )
    assert greedy == sampled


@pytest.mark.parametrize("temperature", [0.5, 1.0])
@pytest.mark.parametrize("direction", ["policy_base", "base_policy"])
def test_kl_is_exact_and_at_temperature_one(
    generator: torch.Generator, direction: reinforce.Direction, temperature: float
) -> None:
    policy, base = torch.randn(2, 5, 7, generator=generator)
    zero = torch.zeros(5, dtype=torch.long)
    terms = reinforce.terms(
        policy, zero, zero, torch.ones(1), temperature=temperature, base_logits=base, direction=direction
    )
    p, q = Categorical(logits=policy), Categorical(logits=base)
    expected = (kl_divergence(p, q) if direction == "policy_base" else kl_divergence(q, p)).sum()
    torch.testing.assert_close(terms.kl, expected)
    torch.testing.assert_close(terms.loss(0.3, 2), (terms.policy + 0.3 * expected) / 2)


def test_kl_is_least_at_the_base(generator: torch.Generator) -> None:
    base = torch.randn(5, 7, generator=generator)
    policy = base.clone().requires_grad_()
    for direction in ("policy_base", "base_policy"):
        kl = reinforce.divergence(policy.log_softmax(-1), base.log_softmax(-1), direction).sum()
        (gradient,) = torch.autograd.grad(kl, policy)
        assert kl == 0
        torch.testing.assert_close(gradient, torch.zeros_like(gradient))


def test_rewards_and_advantages() -> None:
    rewards = reinforce.rewards(torch.tensor([True, False, False, False]), 1.0, -0.1)
    torch.testing.assert_close(rewards, torch.tensor([1.0, -0.1, -0.1, -0.1]))
    assert reinforce.advantages(rewards, "none", False).equal(rewards)

    centred = reinforce.advantages(rewards, "mean", False)
    torch.testing.assert_close(centred.mean(), torch.tensor(0.0))
    torch.testing.assert_close(centred, rewards - 0.175)

    for baseline in ("none", "mean"):
        scaled = reinforce.advantages(rewards, baseline, True)
        torch.testing.assert_close(scaled.square().mean(), torch.tensor(1.0))


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("reward", [1.0, 0.1, -0.1, 0.3, 1e-30, 1e30, 0.0])
def test_a_batch_of_equal_rewards_has_no_advantage_over_its_mean(reward: float, normalise: bool) -> None:
    for batch in range(1, 65):
        assert reinforce.advantages(torch.full((batch,), reward), "mean", normalise).equal(torch.zeros(batch))


def test_rewards_that_differ_by_rounding_are_equal() -> None:
    rewards = torch.tensor([0.1, 0.2, 0.3]).cumsum(0)[-1:].repeat(4)
    rewards[0] = torch.nextafter(rewards[0], torch.tensor(1.0))
    assert reinforce.advantages(rewards, "mean", True).equal(torch.zeros(4))


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
@pytest.mark.parametrize("baseline", ["none", "mean"])
def test_normalised_advantages_do_not_depend_on_the_rewards_scale(scale: float, baseline: str) -> None:
    rewards = torch.tensor([1.0, -1.0, -1.0, 1.0, 1.0])
    torch.testing.assert_close(
        reinforce.advantages(scale * rewards, baseline, True), reinforce.advantages(rewards, baseline, True)
    )


def test_a_group_is_compared_with_its_own_mean_and_agreeing_groups_are_counted() -> None:
    rewards = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    own = reinforce.advantages(rewards, "group", False, samples=2)
    torch.testing.assert_close(own, torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0, 0.0]))
    assert reinforce.agreeing(rewards, 2) == 2
    torch.testing.assert_close(
        reinforce.advantages(rewards, "group", False, samples=3),
        torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0]) - torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0]) / 3,
    )
    assert reinforce.agreeing(rewards, 3) == 0


def test_rewards_of_0_and_1_teach_what_those_of_1_and_minus_1_do_but_for_their_scale() -> None:
    correct = torch.tensor([True, False, False, True, True, True])
    signs, shares = (reinforce.rewards(correct, 1.0, wrong) for wrong in (-1.0, 0.0))
    for baseline in ("mean", "group"):
        own = [reinforce.advantages(rewards, baseline, False, samples=3) for rewards in (signs, shares)]
        torch.testing.assert_close(own[0], 2 * own[1])
