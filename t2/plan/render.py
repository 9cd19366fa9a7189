"""A plan as text, with everything that it assumes."""

from __future__ import annotations

from t2.plan import USABLE, Plan
from t2.plan.shapes import Attached

PARTS = ["weights", "basis", "W'", "working"]


def render(plan: Plan) -> str:
    """What the base model and its adapters are, a table of the stages, and the assumptions."""
    return "\n\n".join(["\n".join(_facts(plan)), "\n".join(_table(plan)), "\n".join(_assumptions(plan))])


def _facts(plan: Plan) -> list[str]:
    base, shapes = plan.main.base, plan.main.shapes
    rows = {
        "base": f"{base.path}: {_amount(shapes.parameters)} parameters, {_bytes(shapes.weight_bytes)} "
        f"in {base.dtype}{f', linear layers in {shapes.quantisation}' if shapes.quantisation else ''}",
        "": f"shapes from {shapes.source}",
        "basis": f"{_amount(shapes.cache_bytes / 4)} numbers, {_bytes(shapes.cache_bytes)} for "
        f"{len(shapes.adapted)} matrices; U, σ and V would be {_amount(shapes.svd_numbers)} numbers",
        **{name: _adapter(adapter) for name, adapter in plan.main.adapters.items()},
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


def _table(plan: Plan) -> list[str]:
    rows = [["stage", "memory", *(f"{part}" for part in PARTS), "processes", "operations", "time"]]
    for stage in plan.stages:
        parts = [_bytes(stage.memory.get(part, 0.0)) for part in PARTS]
        work = [_amount(stage.cost.operations), _time(stage.cost.seconds)]
        rows.append([stage.name, _bytes(stage.total), *parts, str(stage.processes), *work])
    operations = sum(stage.cost.operations for stage in plan.stages)
    rows.append(["all", _bytes(plan.peak), *[""] * (len(PARTS) + 1), _amount(operations), _time(plan.seconds)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    if plan.gpus == 1:
        return [*lines, "", "It fits one GPU."]
    return [
        *lines,
        "",
        f"It needs the memory of {plan.gpus} GPUs; the time is that of all together. Less: a smaller "
        "training.micro_batch (or micro_tokens, logit_chunk), a smaller batch of training, search or measure, fewer "
        "execution.workers, or training.gradient_checkpointing.",
    ]


def _assumptions(plan: Plan) -> list[str]:
    assumed, gpu, training = plan.params.plan, plan.gpu, plan.params.training
    dtype = plan.main.base.dtype
    peak = gpu.model if plan.main.shapes.width < 4 else gpu.single
    activations = "recomputed, layer by layer" if training.gradient_checkpointing else "kept, not recomputed"
    logits = f"{training.logit_chunk} answer tokens" if training.logit_chunk else "all answer tokens of a micro-batch"
    lines = [
        f"prompts of {assumed.prompt_tokens} tokens; replies of {assumed.reply_share:.0%} of a task's max_new_tokens "
        "on average (operations), of all of them (memory, number of decoding steps)",
        f"matrix products reach {assumed.compute:.0%} of the peak, {peak / 1e12:.0f} TFLOP/s in {dtype}, "
        f"{gpu.single / 1e12:.3g} in float32 (W', gradients of z, factored experts), "
        f"{gpu.double / 1e12:.3g} in float64",
        f"eigenproblems of 9 r³ operations reach {assumed.eigh:.0%} of the float64 peak; the basis is made on the GPU",
        f"decoding reads weights, keys and values at {assumed.bandwidth:.0%} of {gpu.bandwidth / 1e12:.3g} TB/s; "
        f"a layer takes {assumed.layer_ms:g} ms at least, at every step",
        "the slowest of computing, reading and launching decides; processes get the GPU in turn",
        "all steps are taken: no early stop; rollouts and validation are in it, loading, sandbox and libraries not",
        f"attention by fused kernels; activations are {activations}; {logits} have logits at once; AdamW in float32",
        f"memory of the longest reply in every sample; {1 - USABLE:.0%} of the GPU's for fragmentation and CUDA itself",
    ]
    return [
        "Assumed (the section `plan` of the parameters, and the code in t2/plan):",
        *(f"- {line}" for line in lines),
    ]


def _bytes(size: float) -> str:
    return f"{_amount(size)}B" if size else "–"


def _amount(value: float) -> str:
    """Three digits and a unit prefix."""
    for prefix, size in {"E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3}.items():
        if value >= size:
            return f"{_digits(value / size)} {prefix}"
    return f"{_digits(value)} "


def _time(seconds: float) -> str:
    """Hours, in minutes or seconds where they are few."""
    for name, size in {"h": 3600, "min": 60}.items():
        if seconds >= size:
            return f"{_digits(seconds / size)} {name}"
    return f"{_digits(seconds)} s"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
