"""Attention for grouped key-value heads without copies of them.

With a padding mask, transformers repeats keys and values to the number of query heads at every step, since
CUDA's fused kernels need that. The CPU's kernel does not, and in small models the copies take as long as the
rest of a decoding step.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_SDPA = "grouped_sdpa"
"""The name to pass to ``from_pretrained`` as ``attn_implementation``."""


def grouped_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, on the CPU with unrepeated key-value heads.

    Args:
        module: The attention layer.
        query: (B, heads, q, d).
        key: (B, key-value heads, k, d).
        value: (B, key-value heads, k, d).
        attention_mask: (B, 1, q, k), True where a query may look; None: causal.
        dropout: Probability of dropping a weight.
        scaling: Of the logits; None: 1 / √d.
        **kwargs: For other devices, passed on.

    Returns:
        The output (B, q, heads, d), and no weights.
    """
    if query.device.type != "cpu":
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=attention_mask is None and query.shape[2] > 1,
        enable_gqa=True,
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
