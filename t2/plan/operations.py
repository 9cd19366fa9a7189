"""What torch counts of a model's operations, on the meta device."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from t2.config.rows import Base
from t2.plan.shapes import architecture
from t2.svf.pretrained import empty_model


def per_sample(base: Base, tokens: int) -> tuple[int, int]:
    """Operations of a base model's pass over a prompt and its reply, and of that with the gradient to its inputs.

    A product of (a, b) and (b, c) counts as 2abc. An adapter's own come on top: of SVF folded, r² per token and matrix.

    Args:
        base: Whose model.
        tokens: Of prompt and reply together.

    Raises:
        PlanError: The model's configuration cannot be found.
    """
    model: Any = empty_model(architecture(base)[0], getattr(torch, base.dtype)).requires_grad_(False)
    width = model.get_input_embeddings().weight.shape[1]
    states = torch.ones(1, tokens, width, dtype=model.dtype, device="meta", requires_grad=True)
    mask = torch.ones(1, tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        # Without a mask, transformers would look into the tokens for where one text ends.
        logits = model(inputs_embeds=states, attention_mask=mask, use_cache=False).logits
        forward = counter.get_total_flops()
        logits.float().sum().backward()
    return forward, counter.get_total_flops()
