"""Llama-3-8B's shapes with random weights on a GPU: basis, training step, folding, decoding, each against a baseline.

Run ``python benchmarks/gpu.py [--only basis,training,folding,decode] [--out gpu.json]``. On a GPU it takes the whole
model of ``--profile`` and the numbers of that profile; on a CPU a small one (``--scale``, ``--layers``, ``--rollouts``,
``--micro-batch``, ``--batch``, ``--prompt`` and ``--reply`` choose others). Weights are drawn on the device, nothing is
downloaded. ``--gpu`` names whose peak stands beside (the device's, where it is known), ``--limit`` the seconds for the
model's basis, which is extrapolated where it is reached; of ``--repeats`` the mean counts, but a training step runs
once. It ends with a markdown table for benchmarks/README.md; ``--out`` is written after every row, and goes on where an
earlier call with other parts stopped, so that each part fits a time limit of its own. ``--dry`` allocates nothing and
prints what ``t2.plan`` expects of memory.

Seconds are wall time on a GPU and processor time on a CPU, which other work disturbs less. In *training*, *folding* and
*decode* every Q is a random orthogonal matrix and not the weight's own, which takes as long to run and minutes less to
make.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from harness import mean_seconds, options, peak, random_experts, reset_peak
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from t2 import profiles
from t2.config.rows import Recipe, Reward
from t2.engine.attention import GROUPED_SDPA
from t2.engine.base import Generation, Sampling
from t2.engine.decode import decode, uniform_numbers
from t2.plan import GPUS, memory
from t2.plan.pipeline import OPTIMISER
from t2.plan.shapes import ARCHITECTURES, Matrix, read_adapter, read_shapes
from t2.svf import Basis, attach, build_cache, narrow_basis, scaled_weight
from t2.svf.basis import narrow_side
from t2.tasks.item import Item
from t2.training.adapters import build_adapter, peft_config
from t2.training.loop import recompute_layers
from t2.training.objectives import Reinforce

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
SMALL = {"scale": 16, "layers": 4, "rollouts": 16, "micro_batch": 4, "batch": 16, "prompt": 32, "reply": 16}


class Engine:
    """The decode loop over random prompts of one length, as Reinforce calls it; it adds up its seconds."""

    def __init__(self, bench: Bench, model: Any) -> None:
        self.bench, self.model, self.seconds, self.peak = bench, model, 0.0, 0.0

    def encode(self, prompts: Any) -> list[list[int]]:
        """A prompt is the seed of its tokens."""
        vocabulary, length = self.bench.shapes.vocabulary, self.bench.options.prompt
        seeds = [torch.Generator().manual_seed(int(prompt)) for prompt in prompts]
        return [torch.randint(vocabulary, (length,), generator=seed).tolist() for seed in seeds]

    def generate(self, prompts: Any, sampling: Sampling) -> list[Generation]:
        self.model.eval()
        reset_peak(self.bench.device)
        start, found = self.bench.clock(), []
        for first in range(0, len(prompts), self.bench.options.batch):
            batch = self.encode(prompts[first : first + self.bench.options.batch])
            found += decode(self.model, batch, {-1}, sampling, uniform_numbers(len(batch), sampling)).tokens.tolist()
        self.seconds += self.bench.clock() - start
        self.peak = max(self.peak, peak(self.bench.device))
        reset_peak(self.bench.device)
        return [Generation("", tuple(tokens), (), False, self.bench.options.prompt) for tokens in found]


class Bench:
    """A model's shapes on a device, and the table that grows."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device = options, options.device
        params = profiles.load(options.profile)
        self.base = params.bases["main"]
        fields = json.loads((ARCHITECTURES / f"{self.base.path.replace('/', '--')}.json").read_text())
        longest = max(t.reward.max_new_tokens for t in params.tasks.values() if t.role == "trained" and t.reward)
        whole = {"scale": 1, "layers": fields["num_hidden_layers"], "rollouts": params.recipes["svf"].train.batch}
        whole |= {"micro_batch": params.training.micro_batch, "batch": params.measure.batch}
        whole |= {"prompt": params.plan.prompt_tokens, "reply": max(2, longest // 4)}
        for name, usual in (SMALL if options.device == "cpu" and not options.dry else whole).items():
            setattr(options, name, getattr(options, name) or usual)
        heads = max(1, fields["num_attention_heads"] // options.scale)
        hidden = fields["hidden_size"] // options.scale // heads * heads
        fields |= {"num_hidden_layers": options.layers, "hidden_size": hidden, "head_dim": hidden // heads}
        fields |= {"num_attention_heads": heads, "intermediate_size": fields["intermediate_size"] // options.scale}
        fields |= {"num_key_value_heads": min(heads, max(1, fields["num_key_value_heads"] // options.scale))}
        fields |= {"vocab_size": fields["vocab_size"] // options.scale}
        fields |= dict.fromkeys(["eos_token_id", "bos_token_id", "pad_token_id"])
        self.settings = AutoConfig.for_model(**fields)
        micro_batch = min(options.micro_batch, options.rollouts)
        self.training = params.training.model_copy(update={"micro_batch": micro_batch})
        # The profile's first recipe of each method.
        self.recipes = {recipe.method: recipe for recipe in reversed(params.recipes.values())}
        with tempfile.TemporaryDirectory() as folder:
            self.settings.save_pretrained(folder)
            base = self.base.model_copy(update={"path": folder, "dtype": options.dtype or self.base.dtype})
            self.svf = read_adapter(base, self.recipes["svf"], read_shapes(base))
        self.shapes, self.dtype = self.svf.shapes, getattr(torch, base.dtype)
        self.one_layer = [m for m in self.shapes.adapted if m.layer == self.shapes.first_adapted]
        name = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {options.threads} thread(s)"
        self.gpu = options.gpu or next((gpu for gpu in GPUS if gpu in name.lower()), params.plan.gpu)
        self.title = (
            f"{name}, torch {torch.__version__}, {base.dtype}; {base.label}'s shapes, 1/{options.scale} wide: hidden "
            f"{hidden}, MLP {self.shapes.intermediate}, {options.layers} layers, vocabulary {self.shapes.vocabulary}, "
            f"{self.shapes.parameters / 1e6:,.1f} M parameters, {len(self.shapes.adapted)} adapted matrices; "
            f"{options.rollouts} rollouts in micro-batches of {options.micro_batch}, {options.batch} prompts decoded "
            f"side by side, prompts of {options.prompt} and replies of {options.reply} tokens"
        )
        self.rows: dict[str, dict[str, Any]] = {}
        if options.out and options.out.is_file():
            earlier = json.loads(options.out.read_text())
            if earlier["what"] != self.title:
                raise SystemExit(f"{options.out} holds rows of another run ({earlier['what']}); name another file")
            self.rows = earlier["rows"]

    def clock(self) -> float:
        if self.device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def mean(self, run: Any) -> float:
        return mean_seconds(run, self.options.repeats, self.device)

    def count(self, run: Any) -> int:
        """Operations of a run, as torch counts them."""
        with FlopCounterMode(display=False) as counter:
            run()
        return int(counter.get_total_flops())

    def add(self, name: str, seconds: float, **found: Any) -> None:
        """Notes a row beside what the plan expects of it, prints it, and writes the file."""
        row = {"seconds": seconds, "peak": peak(self.device), "against": "", "ratio": None, "note": "", **found}
        self.rows[name] = row | {"plan_peak": self.expected().get(name)}
        print(f"[{time.strftime('%H:%M:%S')}] {ROWS[name]}: {seconds:.3g} s, {row['peak'] / 1e9:.3g} GB", flush=True)
        if self.options.out:
            self.options.out.write_text(json.dumps({"what": self.title, "rows": self.rows}, indent=1) + "\n")

    def model(self) -> Any:
        """The model with random weights, drawn on the device."""
        torch.manual_seed(0)
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(
                self.settings, dtype=self.dtype, attn_implementation=GROUPED_SDPA, trust_remote_code=False
            )
        return model.eval().requires_grad_(False)

    def weight(self, matrix: Matrix) -> Tensor:
        return 0.02 * torch.randn(matrix.rows, matrix.columns, device=self.device, dtype=self.dtype)

    @cache  # noqa: B019 (one bench per process)
    def expected(self) -> dict[str, float]:
        """Bytes by row, by the formulas of ``t2.plan``."""
        shapes, o, training = self.shapes, self.options, self.training
        svf = shapes.weight_bytes + memory.basis_of_adapted(shapes)
        folded, optimiser = svf + memory.folded(shapes), OPTIMISER * self.svf.parameters
        kept = memory.kept_by_layers(shapes, shapes.first_adapted) + memory.kept_by_svf(shapes)
        recompute = training.gradient_checkpointing
        gradient = memory.learning(
            shapes,
            memory.kept_inputs(shapes, shapes.first_adapted) if recompute else kept,
            samples=training.micro_batch,
            prompt=o.prompt,
            reply=o.reply,
            divergence=self.svf.recipe.train.kl > 0,
            recomputed=kept / (shapes.layers - shapes.first_adapted) if recompute else 0.0,
            chunk=training.logit_chunk,
        )
        answering = memory.answering(shapes, o.batch, o.prompt, o.reply)
        rolling, learning = folded + optimiser + max(answering, memory.folding(shapes)), folded + optimiser + gradient
        decomposing = float(memory.decomposing(shapes))
        return {
            "basis.layer": decomposing,
            "basis.model": decomposing,
            "training.rollouts": rolling,
            "training.gradients": learning,
            "training.step": max(rolling, learning),
            "folding.fold": svf + memory.folding(shapes),
            "folding.push": folded + memory.folding(shapes),
            "decode.base": svf + answering,
            "decode.one": folded + answering,
            "decode.mixed": svf + answering,
        }

    def table(self, absent: str = "not measured") -> str:
        """Markdown; ``absent`` stands where nothing was measured."""
        shown = []
        for name, title in ROWS.items():
            row, size = self.rows.get(name, {}), self.expected().get(name)
            seconds, count = row.get("seconds"), row.get("operations")
            cells = [f"{seconds:.3g} s", f"{row['peak'] / 1e9:.3g} GB"] if seconds else [absent, absent]
            cells.append(f"{row['ratio']:.3g} × {row['against']}" if row.get("ratio") else absent)
            cells.append(f"{count / seconds / GPUS[self.gpu].operations:.1%}" if count else "–")
            shown.append([title, *cells, f"{size / 1e9:.3g} GB" if size else "–", row.get("note", "")])
        heads = ["what", "time", "peak memory", "speed against", f"of {self.gpu}'s peak", "plan's memory", "note"]
        lines = [heads, ["---", *["---:"] * 5, "---"], *shown]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def random_bases() -> Any:
    """Within it, an adapter that is attached gets a random orthogonal Q for each matrix."""

    @cache
    def orthogonal(rank: int, device: torch.device) -> Tensor:
        return torch.linalg.qr(torch.randn(rank, rank, device=device))[0]

    def random_basis(weight: Tensor, name: str = "weight") -> Basis:
        rank = min(weight.shape)
        sigma = torch.linspace(2.0, 0.1, rank, device=weight.device)
        return Basis(sigma, orthogonal(rank, weight.device).clone(), narrow_side(weight.shape))

    return patch("t2.svf.tuner.narrow_basis", random_basis)


def basis(bench: Bench) -> None:
    """One layer, by a full SVD too, then into a cache; and the model, as far as the time limit lets it."""
    torch.manual_seed(0)
    weights = {matrix: bench.weight(matrix) for matrix in bench.one_layer}
    narrow_basis(torch.randn(64, 64, device=bench.device))

    def decompose() -> float:
        start = bench.clock()
        for matrix, weight in weights.items():
            narrow_basis(weight, matrix.name)
        return bench.clock() - start

    reset_peak(bench.device)
    layer, top = decompose(), peak(bench.device)
    q = narrow_basis(next(iter(weights.values()))).q
    note = f"QᵀQ is off 1 by {float((q.T @ q - torch.eye(len(q), device=q.device)).abs().max()):.0e} at most"
    bench.add("basis.layer", layer, peak=top, note=note)
    with tempfile.TemporaryDirectory() as folder:
        at_home = {matrix.name: weight.cpu() for matrix, weight in weights.items()}
        start = bench.clock()
        build_cache(at_home, folder, device=torch.device(bench.device))
        cached = bench.clock() - start
        bench.add("basis.cache", cached, against="without the cache", ratio=layer / cached)

    layers, done, start = sorted({matrix.layer for matrix in bench.shapes.adapted}), 0, bench.clock()
    reset_peak(bench.device)
    while done < len(layers) and (bench.clock() - start) * (done + 1) <= bench.options.limit * max(done, 1):
        for matrix in (m for m in bench.shapes.adapted if m.layer == layers[done]):
            narrow_basis(bench.weight(matrix), matrix.name)
        done += 1
    seconds = (bench.clock() - start) * len(layers) / done
    measured = "" if done == len(layers) else f"{done} of {len(layers)} layers measured, the others extrapolated"
    against = "the first layer's seconds, times layers"
    bench.add("basis.model", seconds, against=against, ratio=layer * len(layers) / seconds, note=measured)

    # Last, as the slowest; the smallest matrix first, and no further than the limit lets it.
    full, ours, rate, start = 0.0, 0.0, 0.0, bench.clock()
    for matrix, weight in sorted(weights.items(), key=lambda item: item[0].size * item[0].rank):
        if bench.clock() - start + rate * matrix.size * matrix.rank > bench.options.limit / 2:
            note += f"; no SVD of {matrix.rows} x {matrix.columns} and larger ones: it would take too long"
            break
        begun = bench.clock()
        torch.linalg.svd(weight.float(), full_matrices=False)
        taken = bench.clock() - begun
        full, rate, begun = full + taken, taken / (matrix.size * matrix.rank), bench.clock()
        narrow_basis(weight, matrix.name)
        ours += bench.clock() - begun
    bench.add(
        "basis.layer", layer, peak=top, against="torch.linalg.svd, U σ V in float32", ratio=full / ours, note=note
    )


def training(bench: Bench) -> None:
    """A step of REINFORCE by SVF, then the same by LoRA."""
    (ours, operations), (lora, _) = (training_step(bench, bench.recipes[method]) for method in ("svf", "lora"))
    peft = bench.recipes["lora"].peft
    against = f"LoRA, rank {peft['r']} on {' and '.join(peft['target_modules'])}"
    for name, (seconds, top) in ours.items():
        note = f"LoRA's peak {lora[name][1] / 1e9:.3g} GB"
        ratio, count = lora[name][0] / seconds, operations if name == "step" else None
        bench.add(f"training.{name}", seconds, peak=top, against=against, ratio=ratio, operations=count, note=note)


def training_step(bench: Bench, recipe: Recipe) -> tuple[dict[str, tuple[float, float]], float]:
    """Seconds and peak of rollouts, of gradients and of the whole step; and the operations of that."""
    with random_bases():
        adapted = build_adapter(bench.model(), recipe, seed=0, task="benchmark")
    if bench.training.gradient_checkpointing:
        recompute_layers(adapted)
    train, engine = bench.svf.recipe.train, Engine(bench, adapted)
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=train.lr, weight_decay=bench.training.weight_decay)
    reward = Reward(kind="math", right=1.0, wrong=-1.0, stop=[], max_new_tokens=bench.options.reply)
    seeds: Any = torch.Generator().manual_seed(0)
    stub: Any = engine
    objective = Reinforce(
        adapted, stub, lambda items, _: [int(i.answer) % 2 == 0 for i in items], train, bench.training, reward, seeds
    )

    def step(count: int) -> None:
        row = objective.accumulate([Item(str(i), str(i), str(i)) for i in range(count)])
        # Raises where the gradient is not finite.
        torch.nn.utils.clip_grad_norm_(trained, train.clip, error_if_nonfinite=True)
        optimiser.step()
        optimiser.zero_grad()
        print(f"  {recipe.method}: " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)

    # As many as a micro-batch holds: kernels are chosen by shape.
    operations = bench.count(lambda: step(bench.training.micro_batch))
    engine.seconds = engine.peak = 0.0
    start = bench.clock()
    step(bench.options.rollouts)
    whole, top = bench.clock() - start, peak(bench.device)
    return {
        "rollouts": (engine.seconds, engine.peak),
        "gradients": (whole - engine.seconds, top),
        "step": (whole, max(top, engine.peak)),
    }, operations * bench.options.rollouts / bench.training.micro_batch


def attached(bench: Bench, model: Any) -> Any:
    with random_bases():
        return attach(model, peft_config(bench.svf.recipe, bench.shapes.layers))


def folding(bench: Bench) -> None:
    """W' of the model, and a new z made live in the engine."""
    svf = attached(bench, bench.model())
    layers = svf.svf_layers()
    z = {name: table[0].to(bench.device) for name, table in random_experts(svf.sigmas(), 1).items()}
    (adapter,) = svf.active_adapters
    token = torch.zeros(1, 1, dtype=torch.long, device=bench.device)
    factors = [
        (torch.randn(m.rows, m.rank, device=bench.device), torch.randn(m.rank, m.columns, device=bench.device))
        for m in bench.one_layer
    ]
    # What an engine needs at least that takes finished weights.
    target = torch.empty_like(max((layer.base_layer.weight for layer in layers.values()), key=Tensor.numel)).flatten()

    @torch.inference_mode()
    def fold() -> None:
        for name, layer in layers.items():
            _, q, side = layer.basis()
            scaled_weight(layer.base_layer.weight, q, z[name], side)

    def rebuild() -> None:
        for u, vh in factors:
            ((u * u[0]) @ vh).to(bench.dtype)

    def push() -> None:
        with torch.no_grad():
            for name, layer in layers.items():
                layer.svf_z[adapter].copy_(z[name])  # other numbers: W' is built anew
                z[name].add_(1e-6)
        with torch.inference_mode():
            svf(input_ids=token)

    @torch.no_grad()
    def copy() -> None:
        for layer in layers.values():
            target[: layer.base_layer.weight.numel()].copy_(layer.base_layer.weight.flatten())

    reset_peak(bench.device)
    # One layer for all: U and V would take 39 GB.
    seconds, reference = bench.mean(fold), bench.mean(rebuild) * len(bench.shapes.adapted) / len(bench.one_layer)
    against = "U diag(σz) Vᵀ in float32, one layer, times layers"
    bench.add("folding.fold", seconds, against=against, ratio=reference / seconds, operations=bench.count(fold))
    seconds, note = bench.mean(push), "vLLM: benchmarks/vllm_experts.py"
    bench.add("folding.push", seconds, against="copying finished W'", ratio=bench.mean(copy) / seconds, note=note)


def decoding(bench: Bench) -> None:
    """The same prompts on the bare model, and with SVF attached under none, one and three experts."""
    count, sampling = bench.options.batch, Sampling(bench.options.reply)
    prompts = [str(i) for i in range(count)]
    model = bench.model()

    def run(engine: Engine) -> list[tuple[int, ...]]:
        return [generation.tokens for generation in engine.generate(prompts, sampling)]

    bare = Engine(bench, model)
    replies, plain = run(bare), bench.mean(lambda: run(bare))
    svf = attached(bench, model)
    engine, experts = Engine(bench, svf), random_experts(svf.sigmas(), 3)
    for name, tables, rows in (
        ("base", {}, [-1] * count),
        ("one", experts, [0] * count),
        ("mixed", experts, [i % 3 for i in range(count)]),
    ):
        with svf.per_sample(tables, rows):
            engine.peak = 0.0
            found, seconds, counted = run(engine), bench.mean(lambda: run(engine)), bench.count(lambda: run(engine))
        note = f"{count * sampling.max_new_tokens / seconds:,.0f} tokens/s"
        if name == "base":
            same = sum(a == b for a, b in zip(found, replies, strict=True))
            note += f"; replies equal to the bare model's: {same} of {count}"
        row = {"peak": engine.peak, "against": "the bare model", "ratio": plain / seconds, "operations": counted}
        bench.add(f"decode.{name}", seconds, note=note, **row)


def main() -> None:
    chosen = options(
        __doc__,
        only=",".join(PARTS),
        profile="llama3-8b",
        device="cuda" if torch.cuda.is_available() else "cpu",
        dtype=str,
        **dict.fromkeys(SMALL, int),
        repeats=2,
        limit=240.0,
        gpu=str,
        threads=1,
        out=Path,
        dry=False,
    )
    parts, failed = {"basis": basis, "training": training, "folding": folding, "decode": decoding}, []
    if unknown := set(chosen.only.split(",")) - set(parts):
        sys.exit(f"--only takes {','.join(PARTS)}; got {','.join(sorted(unknown))}")
    bench = Bench(chosen)
    print(bench.title, flush=True)
    for part in [] if chosen.dry else chosen.only.split(","):
        try:
            parts[part](bench)
        except Exception:  # the others get their turn
            traceback.print_exc()
            failed.append(part)
    print(f"\n{bench.table()}")
    if failed:
        sys.exit(f"failed: {', '.join(failed)} (see above); run these again with --only {','.join(failed)}")


if __name__ == "__main__":
    main()
