"""Attention for grouped key-value heads without copies of them.

With a padding mask, transformers repeats keys and values to the number of query heads at every step, since
CUDA's fused kernels need that. The CPU's kernel does not, and in small models the copies take as long as the
rest of a decoding step.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AttentionInterface, AttentionMaskInterface, PreTrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

GROUPED_SDPA = "grouped_sdpa"
"""The name to pass to ``from_pretrained`` as ``attn_implementation``."""


_NOT_COMPUTED = ("softcap", "s_aux")
"""What models pass to attention that no scaled dot product computes: a cap on the logits, attention sinks."""


def implementation(config: PreTrainedConfig) -> str | dict[str, str] | None:
    """The attention that a language model is to be loaded with; None: what transformers takes by itself.

    Of a model that also sees, that of its language part, by the name of its configuration.
    """
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model_class is None:
        text = config.get_text_config()
        inner = None if text is config else implementation(text)
        part = next((name for name in config.sub_configs if getattr(config, name) is text), "")
        return {part: inner} if part and isinstance(inner, str) else None
    if not model_class._supports_sdpa:
        return None
    if getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return "eager"
    return GROUPED_SDPA


def grouped_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention, on the CPU with unrepeated key-value heads.

    Args:
        module: The attention layer.
        query: (B, heads, q, d).
        key: (B, key-value heads, k, d).
        value: (B, key-value heads, k, d).
        attention_mask: (B, 1, q, k), True where a query may look; None: see ``is_causal``.
        dropout: Probability of dropping a weight.
        scaling: Of the logits; None: 1 / √d.
        is_causal: Whether, without a mask, a query looks at what is before it only; None: as the layer says.
        **kwargs: For other devices, passed on.

    Returns:
        The output (B, q, heads, d), and no weights.

    Raises:
        NotImplementedError: The layer asks for something that this does not compute.
    """
    asked = [name for name in _NOT_COMPUTED if kwargs.get(name) is not None]
    if asked:
        raise NotImplementedError(
            f"{type(module).__name__} asks for {', '.join(asked)}, which {GROUPED_SDPA} does not compute; load the "
            "model with attn_implementation='eager'"
        )
    plain = kwargs.get("position_bias") is None and kwargs.get("cache") is None
    if query.device.type != "cpu" or not plain:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    output = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=attention_mask,
        dropout_p=dropout,
        scale=scaling,
        is_causal=causal and attention_mask is None and query.shape[2] > 1,
        enable_gqa=True,
    )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED_SDPA, grouped_sdpa)
AttentionMaskInterface.register(GROUPED_SDPA, sdpa_mask)
