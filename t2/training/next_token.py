"""Next-token prediction: imitation of the items' worked replies."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import cross_entropy


def loss(logits: Tensor, tokens: Tensor, batch_tokens: int) -> Tensor:
    """L = −(1/N) Σ_n log softmax(l_n)[y_n], in nats per token.

    The mean is over the N reply tokens of the whole batch, the end of sequence included: a long reply weighs
    more than a short one. Losses of micro-batches add up to that of their batch, and so do the gradients.

    Args:
        logits: (n, V) of a micro-batch; row i predicts token i.
        tokens: (n,) ids of the replies' tokens.
        batch_tokens: N, the reply tokens of the whole batch.
    """
    return cross_entropy(logits.float(), tokens, reduction="sum") / batch_tokens
