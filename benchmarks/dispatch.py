"""The first pass of two, read by generation, by the likelihood of each category's reply and, with vLLM, by choice.

Run ``python benchmarks/dispatch.py [--engine hf] [--items 200] [--threads 1] [--reply 256]``: a base is asked for the
category of prompts of every family and of none, in turns; the best times count. Beside them stand a bare prefill (the
prompts alone, one token is generated) and, with ``--reply``, the second pass. The ratio's baseline is generation.
"""

from __future__ import annotations

import tempfile
from functools import partial
from typing import Any

import torch
from harness import PROJECTIONS, in_turns, options, questions

from t2.adaptation.first_pass import Ask, dispatch
from t2.config import load
from t2.config.rows import OTHER, Reading
from t2.engine.base import Engine, Sampling
from t2.engine.hf import HfEngine, load_base
from t2.engine.vllm.engine import VllmEngine
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights

FAMILIES = ("math", "code", "reasoning", OTHER)
READINGS: dict[str, tuple[Reading, ...]] = {
    "hf": ("generation", "likelihood"),
    "vllm": ("generation", "likelihood", "choice"),
}


def make_engine(name: str, base: str, batch: int) -> Engine:
    """An engine that runs experts in mixed batches."""
    if name == "hf":
        model, tokenizer = load_base(base, "float32")
        return HfEngine(attach(model, SvfConfig(target_modules=PROJECTIONS)), tokenizer, batch_size=batch)
    settings = load("params.yaml").engine.vllm
    with tempfile.TemporaryDirectory() as folder:
        cache = build_cache(checkpoint_weights(base, PROJECTIONS, torch.float32), f"{folder}/basis")
        return VllmEngine(base, settings, basis=cache.folder)


def main() -> None:
    args = options(
        __doc__, engine="hf", base="data/miniature/base", items=200, threads=1, repeats=3, batch=320, reply=0
    )
    engine, readings = make_engine(args.engine, args.base, args.batch), READINGS[args.engine]
    families = [family for family in FAMILIES for _ in range(args.items)]
    prompts, template = questions(FAMILIES, len(families)), load("params.yaml").tasks["dispatch"].prompt
    asks = {reading: Ask(template, FAMILIES, 12, reading) for reading in readings}
    runs: dict[str, Any] = {reading: partial(dispatch, engine, prompts, ask) for reading, ask in asks.items()}
    runs["prefill"] = partial(engine.generate, prompts, Sampling(1))
    if args.reply:
        runs["reply"] = partial(engine.generate, prompts, Sampling(args.reply))
    best, found = in_turns(runs, args.repeats)
    for reading in readings:
        right = sum(map(str.__eq__, found[reading], families))
        print(
            f"{reading:<11} {right:4d} of {len(prompts)} right  {best[reading]:6.2f} s  "
            f"{len(prompts) / best[reading]:6.0f} prompts/s  ratio {best['generation'] / best[reading]:5.2f}"
        )
        same = sum(map(str.__eq__, found["generation"], found[reading]))
        print(f"            named as by generation: {same} of {len(prompts)}")
        print(f"            {best[reading] / best['prefill']:.2f} of a bare prefill, {best['prefill']:.2f} s")
        if args.reply:
            made = sum(len(reply.tokens) for reply in found["reply"]) / len(prompts)
            share = best[reading] / (best[reading] + best["reply"])
            print(f"            {share:.1%} of both passes; replies of {made:.0f} tokens on average")


if __name__ == "__main__":
    main()
