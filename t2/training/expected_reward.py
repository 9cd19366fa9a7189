"""The expected reward in closed form, where one token behind the prompt is the whole answer.

For B prompts x_i with the options' tokens o, of which one, a_i, is right, and every other token of the vocabulary
worth the reward of a wrong answer::

    J = (1/B) Σ_i Σ_o π(o | x_i) r_o  +  (1 − Σ_o π(o | x_i)) r_wrong  −  λ (1/B) Σ_i KL_i
      = (1/B) Σ_i  r_wrong + (r_right − r_wrong) π(a_i | x_i)          −  λ (1/B) Σ_i KL_i

    π(o | x_i) = softmax(l_i / T)_o

The softmax is over the whole vocabulary: an answer of another form is a wrong one, as it is where it is sampled. The
gradient is the mean of that of :mod:`t2.training.reinforce` over all replies of one token, whatever its baseline.
The divergence is the same, of one token.
"""

from __future__ import annotations

from torch import Tensor

from t2.training.reinforce import Direction, Terms, divergence


def chances(logits: Tensor, answers: Tensor, temperature: float) -> Tensor:
    """π(a_i | x_i).

    Args:
        logits: The policy's behind each prompt, (N, V).
        answers: a, (N,) ids.
        temperature: T; 0, greedy, has no π to learn by and is taken as 1.

    Returns:
        (N,).
    """
    log_probs = (logits.float() / (temperature or 1)).log_softmax(-1)
    return log_probs.gather(-1, answers[:, None]).squeeze(-1).exp()


def terms(
    logits: Tensor,
    answers: Tensor,
    *,
    right: float,
    wrong: float,
    temperature: float,
    base_logits: Tensor | None = None,
    direction: Direction = "policy_base",
) -> Terms:
    """The sums over prompts that make up −J; ``policy`` is minus the sum of expected rewards.

    Args:
        logits: The policy's behind each prompt, (N, V).
        answers: a, (N,) ids.
        right: r_right.
        wrong: r_wrong.
        temperature: T, at which replies would be sampled.
        base_logits: The base model's, (N, V), without gradient; None leaves the divergence out.
        direction: ``"policy_base"`` for KL(π ‖ π_base), ``"base_policy"`` for KL(π_base ‖ π).
    """
    policy = -(wrong + (right - wrong) * chances(logits, answers, temperature)).sum()
    if base_logits is None:
        return Terms(policy, None)
    log_probs, base = logits.float().log_softmax(-1), base_logits.float().log_softmax(-1)
    return Terms(policy, divergence(log_probs, base, direction).sum())
