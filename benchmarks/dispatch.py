"""The first pass of two, read by generation, by the likelihood of each category's reply and, with vLLM, by choice.

Run ``python benchmarks/dispatch.py [--engine hf] [--items 200] [--threads 1] [--reply 256]``: a base is asked for the
category of prompts of every family and of none, in turns; the best times count. Beside them stand a bare prefill (the
prompts alone, one token is generated) and, with ``--reply``, the second pass. The ratio's baseline is generation.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from t2.adaptation.dispatch import Ask, dispatch
from t2.config import load
from t2.config.rows import OTHER, Reading
from t2.engine.base import Engine, Sampling
from t2.engine.hf import HfEngine, load_base
from t2.engine.vllm.engine import VllmEngine
from t2.miniature.problems import generate
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=READINGS, default="hf")
    parser.add_argument("--base", default="data/miniature/base")
    parser.add_argument("--items", type=int, default=200, help="of each family")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=320)
    parser.add_argument("--reply", type=int, default=0, help="tokens of the second pass")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    engine, readings = make_engine(args.engine, args.base, args.batch), READINGS[args.engine]
    asked = [(problem.fields["question"], family) for family in FAMILIES for problem in generate(family, args.items, 0)]
    prompts = [prompt for prompt, _ in asked]
    template = load("params.yaml").tasks["dispatch"].prompt
    runs: dict[str, Callable[[], Any]] = {
        reading: partial(dispatch, engine, prompts, Ask(template, FAMILIES, 12, reading)) for reading in readings
    }
    runs["prefill"] = partial(engine.generate, prompts, Sampling(1))
    if args.reply:
        runs["reply"] = partial(engine.generate, prompts, Sampling(args.reply))
    best = dict.fromkeys(runs, float("inf"))
    found: dict[str, Any] = {}
    for _ in range(args.repeats):
        for name, run in runs.items():
            start = time.perf_counter()
            found[name] = run()
            best[name] = min(best[name], time.perf_counter() - start)
    for reading in readings:
        right = sum(named == family for named, (_, family) in zip(found[reading], asked, strict=True))
        print(
            f"{reading:<11} {right:4d} of {len(asked)} right  {best[reading]:6.2f} s  "
            f"{len(asked) / best[reading]:6.0f} prompts/s  ratio {best['generation'] / best[reading]:5.2f}"
        )
        same = sum(a == b for a, b in zip(found["generation"], found[reading], strict=True))
        print(f"            named as by generation: {same} of {len(asked)}")
        print(f"            {best[reading] / best['prefill']:.2f} of a bare prefill, {best['prefill']:.2f} s")
        if args.reply:
            made = sum(len(reply.tokens) for reply in found["reply"]) / len(asked)
            share = best[reading] / (best[reading] + best["reply"])
            print(f"            {share:.1%} of both passes; replies of {made:.0f} tokens on average")


if __name__ == "__main__":
    main()
