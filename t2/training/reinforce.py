"""REINFORCE with a penalty for leaving the base model (paper, section 3.2, equations 1 and 2).

For B sampled answers ŷ_i to prompts x_i, each worth the advantage A_i::

    J = (1/B) Σ_i A_i log π(ŷ_i | x_i)  −  λ (1/B) Σ_i KL_i

    log π(ŷ_i | x_i) = Σ_t log softmax(l_it / T)[ŷ_it]
    KL_i             = Σ_t KL(π(· | x_i, ŷ_i<t) ‖ π_base(· | x_i, ŷ_i<t))

t runs over the answer's tokens, the end of sequence included. l_it are the policy's logits and T is the
temperature at which ŷ was sampled; the divergence is taken at temperature 1 over the whole vocabulary,
exactly, and the sampled prefixes are constants to the gradient.

Answers differ in length, so tokens come flat: the N tokens of all answers in one dimension, ``sample`` (N,)
says which answer each belongs to.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Baseline = Literal["none", "mean", "group"]
Direction = Literal["policy_base", "base_policy"]


class Terms(NamedTuple):
    """The two sums of −J.

    Attributes:
        policy: −Σ_i A_i log π(ŷ_i | x_i), a scalar.
        kl: Σ_i KL_i, a scalar; None where no base logits are given.
    """

    policy: Tensor
    kl: Tensor | None

    def loss(self, kl_weight: float, batch: int) -> Tensor:
        """−J, as the share of these samples in a batch: (policy + λ kl) / B.

        Losses of micro-batches add up to that of their batch, and so do the gradients.

        Args:
            kl_weight: λ.
            batch: B, the samples of the whole batch.
        """
        # A divergence that is only measured must not reach the gradient, not even as a product with 0.
        total = self.policy if self.kl is None or kl_weight == 0 else self.policy + kl_weight * self.kl
        return total / batch


def rewards(correct: Tensor, right: float, wrong: float) -> Tensor:
    """r_i = ``right`` for a correct answer, ``wrong`` for any other: (B,) bool to (B,) float32."""
    return torch.where(correct, right, wrong).to(torch.float32)


def advantages(rewards: Tensor, baseline: Baseline, normalise: bool, samples: int = 1) -> Tensor:
    """A_i = r_i − b, divided by its root mean square over the batch if ``normalise``.

    b is 0, the batch's mean reward, or that of the samples of i's prompt. With a mean, rewards that are equal but for
    rounding say nothing: every A_i of the batch, or of the prompt, is 0. Without it, so are all rewards of 0. With
    the batch's mean, normalising divides by the standard deviation.

    Args:
        rewards: r, (B,), of the whole batch: a micro-batch has another mean.
        baseline: ``"none"``, ``"mean"`` or ``"group"``.
        normalise: Whether to divide.
        samples: Of each prompt; they stand side by side.

    Returns:
        (B,).
    """
    exact = rewards.double()  # squares of float32 rewards neither overflow nor vanish
    if baseline == "mean":
        exact = _centred(exact)
    elif baseline == "group":
        exact = torch.cat([_centred(group) for group in exact.split(samples)])
    scale = exact.square().mean().sqrt()
    return (exact / scale if normalise and scale > 0 else exact).to(rewards.dtype)


def agreeing(rewards: Tensor, samples: int) -> int:
    """How many prompts have samples that all earned the same; over the mean of these they teach nothing.

    Args:
        rewards: r, (B,).
        samples: Of each prompt; they stand side by side.
    """
    return sum(not _centred(group).any() for group in rewards.double().split(samples))


def _centred(rewards: Tensor) -> Tensor:
    """Rewards, float64, above their mean."""
    spread, rounding = rewards.max() - rewards.min(), rewards.abs().max() * torch.finfo(torch.float32).eps
    return rewards - rewards.mean() if spread > rounding else torch.zeros_like(rewards)


def terms(
    logits: Tensor,
    tokens: Tensor,
    sample: Tensor,
    advantages: Tensor,
    *,
    temperature: float,
    base_logits: Tensor | None = None,
    direction: Direction = "policy_base",
) -> Terms:
    """The sums over samples that make up −J.

    Args:
        logits: The policy's, (N, V): row n is what token n was sampled from.
        tokens: ŷ, (N,) ids.
        sample: (N,) indices into ``advantages``.
        advantages: A, (B,).
        temperature: T of the rollout; 0, greedy, has no log π of its own and is taken as 1.
        base_logits: The base model's, (N, V), without gradient; None leaves the divergence out.
        direction: ``"policy_base"`` for KL(π ‖ π_base), ``"base_policy"`` for KL(π_base ‖ π).
    """
    log_probs = logits.float().log_softmax(-1)
    tempered = log_probs if temperature in (0, 1) else (logits.float() / temperature).log_softmax(-1)
    chosen = tempered.gather(-1, tokens[:, None]).squeeze(-1)
    policy = -(advantages[sample] * chosen).sum()
    if base_logits is None:
        return Terms(policy, None)
    return Terms(policy, divergence(log_probs, base_logits.float().log_softmax(-1), direction).sum())


def divergence(policy: Tensor, base: Tensor, direction: Direction) -> Tensor:
    """KL over the vocabulary at each position, in nats: Σ_v p_v (log p_v − log q_v).

    Args:
        policy: Log-probabilities, (N, V).
        base: Log-probabilities, (N, V).
        direction: Which of the two is p.

    Returns:
        (N,).
    """
    p, q = (policy, base) if direction == "policy_base" else (base, policy)
    return (p.exp() * (p - q)).sum(-1)
