"""Greedy generation: the engine's decode loop against ``model.generate`` of transformers.

Run ``python benchmarks/generation.py [--batch 64 256] [--threads 1]``. Both answer the same prompts of the
miniature's families on its base, in batches of the same size over prompts sorted by length, in turns, and the
best time of each counts. A third line has every sample under one of three random experts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from harness import PROJECTIONS, in_turns, options, questions, random_experts
from transformers import AutoModelForCausalLM

from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig, attach

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


def main() -> None:
    args = options(
        __doc__, base="data/miniature/base", batch=[64, 256], items=512, max_new_tokens=96, threads=1, repeats=2
    )
    base, tokenizer = load_base(args.base, "float32")
    prompts, sampling = questions(FAMILIES, args.items), Sampling(args.max_new_tokens)
    engine = HfEngine(attach(base, SvfConfig(target_modules=PROJECTIONS)), tokenizer, batch_size=args.batch[0])
    experts, rows = random_experts(engine.model.sigmas(), 3), [i % 3 for i in range(len(prompts))]

    def run(**how: Any) -> Replies:
        return [list(generation.tokens) for generation in engine.generate(prompts, sampling, **how)]

    runs = {
        "model.generate": transformers_run(engine, prompts, args.max_new_tokens),
        "engine": run,
        "engine, mixed experts": partial(run, experts=experts, rows=rows),
    }
    for batch in args.batch:
        engine.batch_size = batch
        best, replies = in_turns(runs, args.repeats)
        equal = sum(one == other for one, other in zip(replies["model.generate"], replies["engine"], strict=True))
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
