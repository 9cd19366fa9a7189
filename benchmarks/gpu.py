"""Llama-3-8B's shapes with random weights on a GPU: basis, training step, folding, decoding, each against a baseline.

Run ``python benchmarks/gpu.py [--only basis,training,folding,decode] [--out gpu.json]``. On a GPU it takes the whole
model of ``--profile`` and the numbers of that profile; on a CPU a small one (``--scale``, ``--layers`` and the sizes
below choose others). Weights are drawn on the device, nothing is downloaded. It ends with a markdown table for
benchmarks/README.md; ``--out`` is written after every row, and goes on where an earlier call with other parts stopped,
so that each part fits a time limit of its own. ``--dry`` allocates nothing and prints what ``t2.plan`` expects.

Seconds come after a warm-up: on a GPU wall time with the device synchronised, on a CPU its time over all threads, which
other work disturbs less. Peaks are those of torch's allocator on a GPU, of resident memory on a CPU. In *training*,
*folding* and *decode* every Q is a random orthogonal matrix and not the weight's own, which takes as long to run and
minutes less to make.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from t2 import profiles
from t2.config.rows import Base, Params, Recipe, Reward
from t2.engine.attention import GROUPED_SDPA
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine
from t2.plan import GPUS, cost
from t2.plan.cost import Cost, Speed
from t2.plan.pipeline import OPTIMISER
from t2.plan.shapes import ARCHITECTURES, Attached, Matrix, Shapes, read_adapter, read_shapes
from t2.svf import Basis, SvfConfig, attach, build_cache, layer_indices, narrow_basis, scaled_weight
from t2.svf.basis import narrow_side
from t2.tasks.item import Item
from t2.training.adapters import build_adapter
from t2.training.objectives import Reinforce

GB = 1e9
ROWS = {
    "basis.layer": "basis of one layer",
    "basis.cache": "the same into a cache folder: hashes, checksums, files",
    "basis.model": "basis of the model",
    "training.rollouts": "training step: rollouts",
    "training.gradients": "training step: gradients and update",
    "training.step": "training step, whole",
    "folding.fold": "folding: W' of every adapted matrix",
    "folding.push": "pushing: from a new z to the engine's first token",
    "decode.base": "decoding: SVF attached, all samples on the base",
    "decode.one": "decoding: one expert for all samples",
    "decode.mixed": "decoding: three experts mixed in the batch",
}
PARTS = list(dict.fromkeys(name.partition(".")[0] for name in ROWS))


@dataclass(frozen=True)
class Sizes:
    """How much work is measured."""

    scale: int
    layers: int | None
    rollouts: int
    micro_batch: int
    batch: int
    prompt: int
    reply: int


@dataclass
class Row:
    """One line of the table; what was not measured is None.

    Attributes:
        seconds: Measured.
        peak: Bytes, of everything that lives on the device.
        against: The baseline's name.
        ratio: The baseline's seconds over ours: above 1, ours is faster.
        plan_seconds: What ``t2.plan`` expects.
        plan_peak: The same for bytes.
        note: What the reader has to know besides.
    """

    seconds: float | None = None
    peak: float | None = None
    against: str = ""
    ratio: float | None = None
    plan_seconds: float | None = None
    plan_peak: float | None = None
    note: str = ""


@dataclass
class Meter:
    """Seconds and peak bytes on one device."""

    device: torch.device
    _at: float = 0.0

    def clock(self) -> float:
        return time.perf_counter() if self.device.type == "cuda" else time.process_time()

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def start(self) -> None:
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        self.synchronise()
        self._at = self.clock()

    def seconds(self) -> float:
        self.synchronise()
        return self.clock() - self._at

    def peak(self) -> float:
        if self.device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self.device))
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return 1024.0 * int(lines["VmHWM"].split()[0])

    def best(self, run: Callable[[], object], repeats: int) -> float:
        """The fastest of some runs, after one that does not count."""
        run()
        found = []
        for _ in range(repeats):
            self.start()
            run()
            found.append(self.seconds())
        return min(found)


class NoText:
    """Stands for a tokenizer: a prompt is the seed of random tokens, replies have no text and never end."""

    eos_token_id = -1

    def __init__(self, length: int, vocabulary: int) -> None:
        self.length, self.vocabulary = length, vocabulary

    def apply_chat_template(self, chats: Sequence[Any], *, tokenize: bool = True, **_: Any) -> Any:
        if not tokenize:
            return ""

        def tokens(seed: str) -> list[int]:
            generator = torch.Generator().manual_seed(int(seed))
            return torch.randint(self.vocabulary, (self.length,), generator=generator).tolist()

        return {"input_ids": [tokens(chat[0]["content"]) for chat in chats]}

    def encode(self, text: str, **_: Any) -> list[int]:
        return []

    def batch_decode(self, replies: Sequence[Sequence[int]], **_: Any) -> list[str]:
        return [""] * len(replies)


class TimedEngine(HfEngine):
    """Adds up the seconds of its generations and notes their peak."""

    def __init__(self, *args: Any, meter: Meter, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.meter, self.seconds, self.peak = meter, 0.0, 0.0

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        self.meter.synchronise()
        start = self.meter.clock()
        found = super().generate(*args, **kwargs)
        self.meter.synchronise()
        self.seconds += self.meter.clock() - start
        self.peak = max(self.peak, self.meter.peak())
        if self.meter.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.meter.device)
        return found


@dataclass
class Bench:
    """A model's shapes on a device, and the table that grows."""

    params: Params
    base: Base
    settings: Any
    svf: Attached
    lora: Recipe
    device: torch.device
    sizes: Sizes
    repeats: int
    seconds_limit: float
    gpu: str | None
    out: Path | None
    rows: dict[str, Row]

    @property
    def shapes(self) -> Shapes:
        return self.svf.shapes

    @cached_property
    def meter(self) -> Meter:
        return Meter(self.device)

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.base.dtype)
        return found

    @cached_property
    def one_layer(self) -> list[Matrix]:
        return [matrix for matrix in self.shapes.adapted if matrix.layer == self.shapes.first_adapted]

    def add(self, name: str, **found: Any) -> None:
        """Notes a row beside what the plan expects of it, prints it, and writes the file."""
        expected = expectations(self).get(name, (None, None)) if self.gpu else (None, None)
        row = self.rows[name] = Row(**found, plan_seconds=expected[0], plan_peak=expected[1])
        say(f"{ROWS[name]}: {' | '.join(filter(None, cells(row)))}")
        self.write()

    def write(self) -> None:
        if self.out:
            body = {"what": self.title, "rows": {name: asdict(row) for name, row in self.rows.items()}}
            self.out.write_text(json.dumps(body, indent=1) + "\n")

    @property
    def title(self) -> str:
        sizes, shapes = self.sizes, self.shapes
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        threads = "" if self.device.type == "cuda" else f", {torch.get_num_threads()} thread(s)"
        base = self.base
        return (
            f"{name}{threads}, torch {torch.__version__}, {base.dtype}; {base.label}'s shapes, 1/{sizes.scale} wide: "
            f"hidden {shapes.hidden}, MLP {shapes.intermediate}, {shapes.layers} layers, "
            f"vocabulary {shapes.vocabulary}, {shapes.parameters / 1e6:,.1f} M parameters, {len(shapes.adapted)} "
            f"adapted matrices; {sizes.rollouts} rollouts in micro-batches of {sizes.micro_batch}, {sizes.batch} "
            f"prompts decoded side by side, prompts of {sizes.prompt} and replies of {sizes.reply} tokens"
        )

    # Models

    def model(self) -> Any:
        """The model with random weights, drawn on the device."""
        self.meter.start()
        torch.manual_seed(0)
        with torch.device(self.device):
            model: Any = AutoModelForCausalLM.from_config(
                self.settings, dtype=self.dtype, attn_implementation=GROUPED_SDPA
            )
        say(f"drew {model.num_parameters() / 1e6:,.1f} M weights in {self.meter.seconds():.1f} s")
        return model.eval().requires_grad_(False)

    def engine(self, model: Any) -> TimedEngine:
        tokenizer: Any = NoText(self.sizes.prompt, self.shapes.vocabulary)
        return TimedEngine(model, tokenizer, batch_size=self.sizes.batch, meter=self.meter)

    def svf_config(self) -> SvfConfig:
        recipe = self.svf.recipe
        return SvfConfig(
            target_modules=recipe.peft["target_modules"],
            layers_to_transform=layer_indices(recipe.layers, self.shapes.layers),
        )

    @contextmanager
    def random_bases(self) -> Iterator[None]:
        """Within it, an adapter that is attached gets a random orthogonal Q for each matrix."""
        made: dict[int, Tensor] = {}

        def random_basis(weight: Tensor, name: str = "weight") -> Basis:
            rank = min(weight.shape)
            if rank not in made:
                made[rank] = torch.linalg.qr(torch.randn(rank, rank, device=weight.device))[0]
            sigma = torch.linspace(2.0, 0.1, rank, device=weight.device)
            return Basis(sigma, made[rank].clone(), narrow_side(weight.shape))

        self.meter.start()
        with patch("t2.svf.tuner.narrow_basis", random_basis):
            yield
        made.clear()
        say(f"attached in {self.meter.seconds():.1f} s, of which most is hashing the weights")

    def experts(self, svf: Any, count: int) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {n: 1 + 0.1 * torch.randn(count, len(s), generator=generator) for n, s in svf.sigmas().items()}

    def weight(self, matrix: Matrix) -> Tensor:
        drawn = torch.randn(matrix.rows, matrix.columns, device=self.device, dtype=self.dtype)
        return 0.02 * drawn


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


# What the plan expects


def expectations(bench: Bench) -> Mapping[str, tuple[float | None, float | None]]:
    """Seconds and bytes by row, by the formulas of ``t2.plan``."""
    shapes, sizes, params = bench.shapes, bench.sizes, bench.params
    assumed, gpu = params.plan, GPUS[bench.gpu or "h100"]
    speed = Speed.of(gpu, shapes.width, assumed)

    def answers(count: int, experts: cost.Experts, *, builds_fold: bool = True) -> Cost:
        return cost.generate(
            shapes,
            speed,
            count,
            prompt=sizes.prompt,
            reply=sizes.reply,
            longest=sizes.reply,
            batch=sizes.batch,
            experts=experts,
            builds_fold=builds_fold,
        )

    divergence = bench.svf.recipe.train.kl > 0
    step = cost.step(
        bench.svf,
        speed,
        batch=sizes.rollouts,
        micro_batch=sizes.micro_batch,
        prompt=sizes.prompt,
        reply=sizes.reply,
        divergence=divergence,
    )
    layer = sum(
        (speed.cost(double=cost.gram(m)) + speed.cost(eigh=cost.eigenproblem(m)) for m in bench.one_layer), Cost()
    ).seconds
    rollouts, fold = answers(sizes.rollouts, "one").seconds, speed.cost(single=cost.fold(shapes)).seconds
    svf = shapes.weight_bytes + cost.basis_of_adapted(shapes)
    folded = svf + cost.folded(shapes)
    kept = cost.kept_by_layers(shapes, shapes.first_adapted) + cost.kept_by_svf(shapes)
    gradient = cost.learning(
        shapes, kept, samples=sizes.micro_batch, prompt=sizes.prompt, reply=sizes.reply, divergence=divergence
    )
    answering = cost.answering(shapes, sizes.batch, sizes.prompt, sizes.reply)
    optimiser = OPTIMISER * bench.svf.parameters
    return {
        "basis.layer": (layer, cost.decomposing(shapes)),
        "basis.model": (layer * len(shapes.adapted) / len(bench.one_layer), cost.decomposing(shapes)),
        "training.rollouts": (rollouts, folded + optimiser + max(answering, cost.folding(shapes))),
        "training.gradients": (step.seconds, folded + optimiser + gradient),
        "training.step": (rollouts + step.seconds, folded + optimiser + max(gradient, answering)),
        "folding.fold": (fold, svf + cost.folding(shapes)),
        "folding.push": (fold, folded + cost.folding(shapes)),
        "decode.base": (answers(sizes.batch, "none").seconds, svf + answering),
        "decode.one": (answers(sizes.batch, "one").seconds, folded + answering),
        "decode.mixed": (answers(sizes.batch, "many").seconds, svf + answering),
    }


def first_recipe(params: Params, method: str) -> Recipe:
    """The profile's first recipe of a method."""
    return next(recipe for recipe in params.recipes.values() if recipe.method == method)


# Parts


def basis(bench: Bench) -> None:
    """One layer, by a full SVD too, then into a cache; and the model, as far as the time limit lets it."""
    meter = bench.meter
    narrow_basis(torch.randn(64, 64, device=bench.device))
    torch.manual_seed(0)
    weights = {matrix: bench.weight(matrix) for matrix in bench.one_layer}
    meter.start()
    ours: dict[Matrix, float] = {}
    crooked = 0.0
    for matrix, weight in weights.items():
        start = meter.seconds()
        q = narrow_basis(weight, matrix.name).q
        ours[matrix] = meter.seconds() - start
        crooked = max(crooked, float((q.T @ q - torch.eye(len(q), device=bench.device)).abs().max()))
        say(f"  {matrix.name.rpartition('.')[2]} {matrix.rows} x {matrix.columns}: {ours[matrix]:.2f} s")
        del q
    layer, peak = sum(ours.values()), meter.peak()
    note = f"QᵀQ is off 1 by {crooked:.0e} at most"
    bench.add("basis.layer", seconds=layer, peak=peak, note=note)

    with tempfile.TemporaryDirectory() as folder:
        at_home = {matrix.name: weight.cpu() for matrix, weight in weights.items()}
        meter.start()
        build_cache(at_home, folder, device=bench.device)
        cached = meter.seconds()
        bench.add("basis.cache", seconds=cached, peak=meter.peak(), against="without the cache", ratio=layer / cached)

    layers = sorted({matrix.layer for matrix in bench.shapes.adapted})
    meter.start()
    for done, number in enumerate(layers, start=1):
        for matrix in (m for m in bench.shapes.adapted if m.layer == number):
            narrow_basis(bench.weight(matrix), matrix.name)
        taken = meter.seconds()
        say(f"  layer {done} of {len(layers)}: {taken:.1f} s so far")
        if taken * (done + 1) / done > bench.seconds_limit:
            break
    seconds = taken * len(layers) / done
    whole = done == len(layers)
    bench.add(
        "basis.model",
        seconds=seconds,
        peak=meter.peak(),
        against="the first layer's seconds, times layers",
        ratio=layer * len(layers) / seconds,
        note="" if whole else f"{done} of {len(layers)} layers measured, the others extrapolated",
    )

    # Last, as the slowest and the least needed.
    full = full_svds(weights, meter, bench.seconds_limit / 2)
    if full:
        against = "torch.linalg.svd, U σ V in float32"
        ratio = sum(full.values()) / sum(ours[matrix] for matrix in full)
        note += f"; SVD of {len(full)} of {len(weights)} matrices"
        bench.add("basis.layer", seconds=layer, peak=peak, against=against, ratio=ratio, note=note)


def full_svds(weights: Mapping[Matrix, Tensor], meter: Meter, limit: float) -> dict[Matrix, float]:
    """Seconds of full decompositions, the smallest first, for as long as the next will end within the limit."""
    found: dict[Matrix, float] = {}
    rate = 0.0
    meter.start()
    for matrix, weight in sorted(weights.items(), key=lambda item: item[0].size * item[0].rank):
        if found and meter.seconds() + rate * matrix.size * matrix.rank > limit:
            say(f"  no SVD of {matrix.rows} x {matrix.columns} and larger ones: it would take too long")
            break
        start = meter.seconds()
        torch.linalg.svd(weight.float(), full_matrices=False)
        found[matrix] = meter.seconds() - start
        rate = found[matrix] / (matrix.size * matrix.rank)
        say(f"  full SVD of {matrix.rows} x {matrix.columns}: {found[matrix]:.2f} s")
    return found


def training(bench: Bench) -> None:
    """A step of REINFORCE by SVF, then the same by LoRA."""
    ours = training_step(bench, bench.svf.recipe)
    rows = {name: {"seconds": s, "peak": p} for name, (s, p) in ours.items()}
    for name, row in rows.items():
        bench.add(f"training.{name}", **row)
    lora = training_step(bench, bench.lora)
    for name, row in rows.items():
        against = f"LoRA, rank {bench.lora.peft['r']} on {' and '.join(bench.lora.peft['target_modules'])}"
        note = f"LoRA's peak {lora[name][1] / GB:.3g} GB"
        bench.add(f"training.{name}", **row, against=against, ratio=lora[name][0] / ours[name][0], note=note)


def training_step(bench: Bench, recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Seconds and peak of rollouts, of gradients and of the whole step."""
    params, meter, method = bench.params, bench.meter, recipe.method
    with bench.random_bases():
        adapted = build_adapter(bench.model(), recipe, seed=0, task="benchmark")
    engine = bench.engine(adapted)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=bench.svf.recipe.train.lr, weight_decay=params.training.weight_decay)
    objective = Reinforce(
        adapted,
        engine,
        lambda items, replies: [int(item.answer) % 2 == 0 for item in items],
        bench.svf.recipe.train,
        params.training,
        Reward(kind="math", right=1.0, wrong=-1.0, stop=[], max_new_tokens=bench.sizes.reply),
        torch.Generator().manual_seed(0),
    )

    def step(count: int) -> dict[str, Any]:
        row = objective.accumulate([Item(str(i), str(i), str(i)) for i in range(count)])
        norm = float(torch.nn.utils.clip_grad_norm_(trained, bench.svf.recipe.train.clip))
        optimiser.step()
        optimiser.zero_grad()
        return {**row, "grad_norm": norm}

    # As many as a micro-batch holds: kernels are chosen by shape.
    step(bench.sizes.micro_batch)
    say(f"  {method}: warm; a step of {bench.sizes.rollouts} rollouts begins")
    engine.seconds = engine.peak = 0.0
    meter.start()
    row = step(bench.sizes.rollouts)
    whole, peak = meter.seconds(), meter.peak()
    say(f"  {method}: " + ", ".join(f"{name} {value}" for name, value in row.items()))
    if not all(map(torch.isfinite, map(torch.tensor, (row["loss"], row["grad_norm"])))):
        raise FloatingPointError(f"the step of {method} is not finite: {row}")
    found = {
        "rollouts": (engine.seconds, engine.peak),
        "gradients": (whole - engine.seconds, peak),
        "step": (whole, max(peak, engine.peak)),
    }
    return found


def folding(bench: Bench) -> None:
    """W' of the model, and a new z made live in the engine."""
    meter, repeats = bench.meter, bench.repeats
    with bench.random_bases():
        svf: Any = attach(bench.model(), bench.svf_config())
    layers = svf.svf_layers()
    experts = bench.experts(svf, 1)
    z = {name: table[0].to(bench.device) for name, table in experts.items()}

    def fold() -> None:
        with torch.inference_mode():
            for name, layer in layers.items():
                _, q, side = layer.basis()
                scaled_weight(layer.base_layer.weight, q, z[name], side)

    seconds = meter.best(fold, repeats)
    peak = meter.peak()
    reference = reference_fold(bench)
    against = "U diag(σz) Vᵀ in float32, one layer, times layers"
    bench.add("folding.fold", seconds=seconds, peak=peak, against=against, ratio=reference / seconds)

    token = torch.zeros(1, 1, dtype=torch.long, device=bench.device)
    (adapter,) = svf.active_adapters

    def push() -> None:
        with torch.no_grad():
            for name, layer in layers.items():
                layer.svf_z[adapter].copy_(z[name])  # raises its version: W' is built anew
        with torch.inference_mode():
            svf(input_ids=token)

    seconds = meter.best(push, repeats)
    peak = meter.peak()
    # What an engine needs at least that takes finished weights.
    target = torch.empty_like(max((layer.base_layer.weight for layer in layers.values()), key=Tensor.numel)).flatten()

    def copy() -> None:
        with torch.no_grad():
            for layer in layers.values():
                target[: layer.base_layer.weight.numel()].copy_(layer.base_layer.weight.flatten())

    ratio = meter.best(copy, repeats) / seconds
    note = "vLLM: benchmarks/vllm_experts.py"
    bench.add("folding.push", seconds=seconds, peak=peak, against="copying finished W'", ratio=ratio, note=note)


def reference_fold(bench: Bench) -> float:
    """Seconds of the reference code's form for all layers, from one: its U and V would take 39 GB for all."""
    factors = [
        (torch.randn(m.rows, m.rank, device=bench.device), torch.randn(m.rank, m.columns, device=bench.device))
        for m in bench.one_layer
    ]

    def rebuild() -> None:
        for u, vh in factors:
            ((u * u[0]) @ vh).to(bench.dtype)

    return bench.meter.best(rebuild, bench.repeats) * len(bench.shapes.adapted) / len(bench.one_layer)


def decode(bench: Bench) -> None:
    """The same prompts on the bare model, and with SVF attached under none, one and three experts."""
    meter, sizes = bench.meter, bench.sizes
    prompts = [str(i) for i in range(sizes.batch)]
    sampling = Sampling(sizes.reply)
    model = bench.model()

    def measure(name: str, engine: TimedEngine, **how: Any) -> tuple[float, float, list[tuple[int, ...]]]:
        engine.generate(prompts, Sampling(2), **how)
        best, found = float("inf"), []
        engine.peak = 0.0
        for _ in range(bench.repeats):
            meter.start()
            found = [generation.tokens for generation in engine.generate(prompts, sampling, **how)]
            best = min(best, meter.seconds())
            say(f"  {name}: {sum(map(len, found)) / best:,.0f} tokens/s")
        return best, engine.peak, found

    plain, _, replies = measure("bare model", bench.engine(model))
    with bench.random_bases():
        engine = bench.engine(attach(model, bench.svf_config()))
    experts = bench.experts(engine.model, 3)
    ways: dict[str, tuple[Mapping[str, Tensor], list[int]]] = {
        "base": ({}, [-1] * sizes.batch),
        "one": (experts, [0] * sizes.batch),
        "mixed": (experts, [i % 3 for i in range(sizes.batch)]),
    }
    for name, (tables, rows) in ways.items():
        seconds, peak, found = measure(name, engine, experts=tables, rows=rows)
        rate = sum(map(len, found)) / seconds
        same = sum(a == b for a, b in zip(found, replies, strict=True))
        note = f"{rate:,.0f} tokens/s"
        if name == "base":
            note += f"; replies equal to the bare model's: {same} of {len(replies)}"
        bench.add(
            f"decode.{name}",
            seconds=seconds,
            peak=peak,
            against="the bare model",
            ratio=plain / seconds,
            note=note,
        )


# The table


def cells(row: Row) -> list[str]:
    of_plan = row.seconds / row.plan_seconds if row.seconds and row.plan_seconds else None
    return [
        number(row.seconds, " s"),
        number(row.peak and row.peak / GB, " GB"),
        f"{row.ratio:.3g} × {row.against}" if row.ratio is not None else "",
        number(row.plan_seconds, " s"),
        number(of_plan, ""),
        number(row.plan_peak and row.plan_peak / GB, " GB"),
        row.note,
    ]


def number(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.3g}{unit}" if value < 1000 else f"{value:,.0f}{unit}"


def table(bench: Bench, absent: str) -> str:
    """Markdown; ``absent`` stands where nothing was measured."""
    plan = f"plan for {bench.gpu}" if bench.gpu else "plan"
    heads = ["what", "time", "peak memory", "speed against", plan, "time / plan", "plan's memory", "note"]
    lines = [f"| {' | '.join(heads)} |", "| --- |" + " ---: |" * (len(heads) - 2) + " --- |"]
    for name, title in ROWS.items():
        row = bench.rows.get(name, Row())
        shown = cells(row)
        shown[:3] = [cell or absent for cell in shown[:3]]
        lines.append(f"| {' | '.join([title, *(cell or '–' for cell in shown[:6]), shown[6]])} |")
    return "\n".join(lines)


# The command line


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    torch.set_num_threads(options.threads)
    params = profiles.load(options.profile)
    base = params.bases["main"]
    fields: dict[str, Any] = json.loads((ARCHITECTURES / f"{base.path.replace('/', '--')}.json").read_text())
    sizes, fields = sized(options, params, fields)
    training = {"batch": sizes.rollouts, "micro_batch": min(sizes.micro_batch, sizes.rollouts)}
    params = params.model_copy(update={"training": params.training.model_copy(update=training)})
    settings = AutoConfig.for_model(**fields)
    with tempfile.TemporaryDirectory() as folder:
        settings.save_pretrained(folder)
        base = base.model_copy(update={"path": folder, "dtype": options.dtype or base.dtype})
        svf = read_adapter(base, first_recipe(params, "svf"), read_shapes(base))
    bench = Bench(
        params,
        base,
        settings,
        svf,
        first_recipe(params, "lora"),
        device,
        sizes,
        options.repeats,
        options.limit,
        options.gpu or named_gpu(device),
        options.out,
        {},
    )
    bench.rows = earlier(options.out, bench.title)
    failed = []
    if options.dry:
        bench.gpu = bench.gpu or params.plan.gpu
        bench.rows = {n: Row(plan_seconds=s, plan_peak=p) for n, (s, p) in expectations(bench).items()}
    else:
        say(bench.title)
        failed = [part for part in options.only if not done(part, bench)]
    print(f"\n{bench.title}\n\n{table(bench, 'not measured')}")
    bench.write()
    if failed:
        sys.exit(f"failed: {', '.join(failed)} (see above); run these again with --only {','.join(failed)}")


def done(part: str, bench: Bench) -> bool:
    """Runs a part; one that fails is told and leaves the others their turn."""
    say(f"part {part}")
    try:
        {"basis": basis, "training": training, "folding": folding, "decode": decode}[part](bench)
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        ended = False
    else:
        ended = True
    return ended


def sized(options: argparse.Namespace, params: Params, fields: dict[str, Any]) -> tuple[Sizes, dict[str, Any]]:
    """What is measured, on a GPU the profile's own numbers; and the fields of the configuration for it."""
    small = options.device == "cpu" and not options.dry
    longest = max(
        task.reward.max_new_tokens for task in params.tasks.values() if task.role == "trained" and task.reward
    )
    usual = Sizes(
        scale=1,
        layers=None,
        rollouts=params.training.batch,
        micro_batch=params.training.micro_batch,
        batch=params.measure.batch,
        prompt=params.plan.prompt_tokens,
        reply=max(2, round(params.plan.reply_share * longest)),
    )
    if small:
        usual = Sizes(scale=16, layers=4, rollouts=16, micro_batch=4, batch=16, prompt=32, reply=16)
    given = {name: getattr(options, name) for name in Sizes.__dataclass_fields__}
    sizes = Sizes(**{n: getattr(usual, n) if value is None else value for n, value in given.items()})
    scale = sizes.scale
    heads = max(1, fields["num_attention_heads"] // scale)
    hidden = fields["hidden_size"] // scale // heads * heads
    fields = fields | {
        "num_hidden_layers": sizes.layers or fields["num_hidden_layers"],
        "hidden_size": hidden,
        "head_dim": hidden // heads,
        "intermediate_size": fields["intermediate_size"] // scale,
        "num_attention_heads": heads,
        "num_key_value_heads": min(heads, max(1, fields["num_key_value_heads"] // scale)),
        "vocab_size": fields["vocab_size"] // scale,
        "eos_token_id": None,
        "bos_token_id": None,
        "pad_token_id": None,
    }
    return sizes, fields


def named_gpu(device: torch.device) -> str | None:
    """What the plan calls the device."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    return next((gpu for gpu in GPUS if gpu in name), None)


def earlier(out: Path | None, title: str) -> dict[str, Row]:
    """The rows of an earlier call, if it was of the same sizes on the same device."""
    if out is None or not out.is_file():
        return {}
    body = json.loads(out.read_text())
    if body["what"] != title:
        raise SystemExit(f"{out} holds rows of another run ({body['what']}); name another file, or delete it")
    return {name: Row(**row) for name, row in body["rows"].items()}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, of {','.join(PARTS)}")
    parser.add_argument("--profile", default="llama3-8b", help="whose shapes and numbers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="of the weights; the profile's")
    parser.add_argument("--scale", type=int, help="divides widths, heads and vocabulary")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rollouts", type=int, help="of one training step")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--batch", type=int, help="prompts that are decoded side by side")
    parser.add_argument("--prompt", type=int, help="tokens of each prompt")
    parser.add_argument("--reply", type=int, help="tokens of each reply, at least 2")
    parser.add_argument("--repeats", type=int, default=2, help="of which the best counts; the training step runs once")
    parser.add_argument("--limit", type=float, default=240, help="seconds for the model's basis, else extrapolated")
    parser.add_argument("--gpu", choices=list(GPUS), help="whose plan stands beside; the device's, where it is known")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--out", type=Path, help="a JSON file; earlier rows in it are kept")
    parser.add_argument("--dry", action="store_true", help="only what the plan expects")
    options = parser.parse_args()
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only takes {','.join(PARTS)}; got {','.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    main()
