"""A plan as text, with everything that it assumes."""

from __future__ import annotations

import pandas as pd

from t2.plan import USABLE, Plan
from t2.plan.operations import per_sample
from t2.plan.shapes import Attached
from t2.plan.sight import Sight

PARTS = ["weights", "basis", "W'", "images", "working"]


def render(plan: Plan) -> str:
    """What the base model and its adapters are, a table of the stages, and the assumptions."""
    return "\n\n".join(["\n".join(_facts(plan)), "\n".join(_table(plan)), "\n".join(_assumptions(plan))])


def _facts(plan: Plan) -> list[str]:
    base, shapes, sight = plan.main.base, plan.main.shapes, plan.main.sight
    forward, both = per_sample(base, plan.tokens)
    rows = {
        "base": f"{base.path}: {_amount(shapes.parameters)} parameters, {_bytes(shapes.weight_bytes)} "
        f"in {base.dtype}{f', linear layers in {shapes.quantisation}' if shapes.quantisation else ''}",
        "": f"shapes from {shapes.source}",
        **({"images": _images(sight)} if sight else {}),
        "basis": f"{_amount(shapes.cache_bytes / 4)} numbers, {_bytes(shapes.cache_bytes)} for "
        f"{len(shapes.adapted)} matrices; U, σ and V would be {_amount(shapes.svd_numbers)} numbers",
        **{name: _adapter(adapter) for name, adapter in plan.main.adapters.items()},
        "operations": f"{_amount(forward)} for a pass over prompt and reply ({plan.tokens} tokens), {_amount(both)} "
        "with the gradient; what an adapter adds is not counted",
        "GPU": f"{plan.params.plan.gpu}, {_bytes(plan.gpu.memory)} ({plan.gpu.source})",
    }
    width = max(map(len, rows)) + 2
    return [f"{name:<{width}}{text}" for name, text in rows.items()]


def _adapter(adapter: Attached) -> str:
    """What a recipe trains."""
    recipe, names = adapter.recipe, dict.fromkeys(m.name.rpartition(".")[2] for m in adapter.targets)
    rank = f"; rank {adapter.rank}" if adapter.rank else ""
    return (
        f"{recipe.method.upper()}, {adapter.parameters:,} trainable parameters in {len(adapter.targets)} matrices "
        f"({', '.join(names)}; layers: {recipe.layers}{rank})"
    )


def _images(sight: Sight) -> str:
    """What images are looked at with, and what the largest comes to."""
    height, width = sight.size
    return (
        f"a tower of {_amount(sight.tower)} parameters and a projector of {_amount(sight.projector)}; the most tokens "
        f"has an image of {width} × {height} pixels: {sight.largest.tokens:,}, {_bytes(sight.features)} of features, "
        f"{_amount(sight.largest.operations)} operations to look at it"
    )


def _table(plan: Plan) -> list[str]:
    parts = [part for part in PARTS if any(stage.memory.get(part) for stage in plan.stages)]
    rows = {
        stage.name: [
            *map(_bytes, [stage.total, *(stage.memory.get(part, 0.0) for part in parts)]),
            str(stage.processes),
        ]
        for stage in plan.stages
    }
    columns = ["memory", *parts, "processes"]
    lines = [*pd.DataFrame.from_dict(rows, orient="index", columns=columns).to_string().splitlines(), ""]
    if plan.gpus == 1:
        return [*lines, "It fits one GPU."]
    return [
        *lines,
        f"It needs the memory of {plan.gpus} GPUs. Less: a smaller training.micro_batch (or micro_tokens, "
        "logit_chunk), a smaller batch of training, search or measure, fewer execution.workers, or "
        "training.gradient_checkpointing.",
    ]


def _assumptions(plan: Plan) -> list[str]:
    assumed, training = plan.params.plan, plan.params.training
    activations = "recomputed, layer by layer" if training.gradient_checkpointing else "kept, not recomputed"
    logits = f"{training.logit_chunk} answer tokens" if training.logit_chunk else "all answer tokens of a micro-batch"
    seeing = any(model.sight for model in plan.models.values())
    images = "; where a task shows images, one that has the most tokens besides" if seeing else ""
    return [
        "Assumed (the section `plan` of the parameters, and the code in t2/plan):",
        f"- prompts of {assumed.prompt_tokens} tokens{images}; replies of a task's max_new_tokens",
        f"- attention by fused kernels; activations are {activations}; {logits} have logits at once; AdamW in float32",
        f"- {1 - USABLE:.0%} of the GPU's memory for fragmentation and CUDA itself",
        "No time: nothing of this size was run yet.",
    ]


def _bytes(size: float) -> str:
    return f"{_amount(size)}B" if size else "–"


def _amount(value: float) -> str:
    """Three digits and a unit prefix."""
    for prefix, size in {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.items():
        if value >= size:
            return f"{_digits(value / size)} {prefix}"
    return f"{_digits(value)} "


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
