"""Greedy generation: the engine's decode loop against ``model.generate`` of transformers.

Run ``python benchmarks/generation.py [--batch 64 256] [--threads 1]``. Both answer the same prompts of the
miniature's families on its base, in batches of the same size over prompts sorted by length, in turns, and the
best time of each counts. A third line has every sample under one of three random experts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM

from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.miniature.problems import generate
from t2.svf import SvfConfig, attach

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FAMILIES = ("math", "code", "reasoning")

Replies = list[list[int]]


def transformers_run(engine: HfEngine, prompts: list[str], max_new_tokens: int) -> Callable[[], Replies]:
    """``model.generate`` on a model of its own, as transformers loads it."""
    model = AutoModelForCausalLM.from_pretrained(engine.model.config._name_or_path).eval()
    end = engine.tokenizer.eos_token_id

    def run() -> Replies:
        encoded = engine.encode(prompts)
        order = sorted(range(len(prompts)), key=lambda i: -len(encoded[i]))
        replies: dict[int, list[int]] = {}
        for start in range(0, len(order), engine.batch_size):
            batch = order[start : start + engine.batch_size]
            inputs = engine.tokenizer.pad(
                {"input_ids": [encoded[i] for i in batch]}, padding_side="left", return_tensors="pt"
            )
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=end)
            for i, row in zip(batch, output[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                replies[i] = row[: row.index(end) + 1] if end in row else row
        return [replies[i] for i in range(len(prompts))]

    return run


def engine_run(engine: HfEngine, prompts: list[str], sampling: Sampling) -> Callable[[], Replies]:
    return lambda: [list(generation.tokens) for generation in engine.generate(prompts, sampling)]


def mixed_run(engine: HfEngine, prompts: list[str], sampling: Sampling) -> Callable[[], Replies]:
    generator = torch.Generator().manual_seed(0)
    experts = {
        name: 1 + 0.1 * torch.randn(3, len(sigma), generator=generator) for name, sigma in engine.model.sigmas().items()
    }
    rows = [i % 3 for i in range(len(prompts))]
    return lambda: [list(g.tokens) for g in engine.generate(prompts, sampling, experts=experts, rows=rows)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="data/miniature/base")
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--items", type=int, default=512)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=2)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    base, tokenizer = load_base(args.base, "float32")
    per_family = -(-args.items // len(FAMILIES))
    items = [item for family in FAMILIES for item in generate(family, per_family, seed=0)]
    prompts = [item.prompt for item in items][: args.items]
    sampling = Sampling(args.max_new_tokens)
    engine = HfEngine(attach(base, SvfConfig(target_modules=PROJECTIONS)), tokenizer, batch_size=args.batch[0])
    runs = {
        "model.generate": transformers_run(engine, prompts, args.max_new_tokens),
        "engine": engine_run(engine, prompts, sampling),
        "engine, mixed experts": mixed_run(engine, prompts, sampling),
    }
    for batch in args.batch:
        engine.batch_size = batch
        best = dict.fromkeys(runs, float("inf"))
        replies: dict[str, Replies] = {}
        for _ in range(args.repeats):
            for name, run in runs.items():
                start = time.perf_counter()
                replies[name] = run()
                best[name] = min(best[name], time.perf_counter() - start)
        named, ours = replies["model.generate"], replies["engine"]
        equal = sum(one == other for one, other in zip(named, ours, strict=True))
        print(f"batch {batch}, {len(prompts)} prompts, {args.threads} thread(s)")
        for name, seconds in best.items():
            tokens = sum(map(len, replies[name]))
            print(
                f"  {name:<22} {seconds:6.2f} s  {len(prompts) / seconds:6.0f} items/s  "
                f"{tokens / seconds:7.0f} tokens/s  ratio {best['model.generate'] / seconds:5.2f}"
            )
        print(f"  equal replies of model.generate and engine: {equal} of {len(prompts)}", flush=True)


if __name__ == "__main__":
    main()
