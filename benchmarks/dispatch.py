"""The first pass of two, read by generation, by the likelihood of each category's reply and, with vLLM, by choice.

Run ``python benchmarks/dispatch.py [--engine hf] [--items 200] [--threads 1]``: the miniature base is asked for the
category of prompts of every family and of none, in turns; the best times count. The ratio's baseline is generation.
"""

from __future__ import annotations

import argparse
import tempfile
import time

import torch

from t2.adaptation.dispatch import Ask, dispatch
from t2.config import load
from t2.config.rows import OTHER, Reading
from t2.engine.base import Engine
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


def make_engine(name: str, base: str) -> Engine:
    """An engine that runs experts in mixed batches."""
    if name == "hf":
        model, tokenizer = load_base(base, "float32")
        return HfEngine(attach(model, SvfConfig(target_modules=PROJECTIONS)), tokenizer, batch_size=320)
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
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    engine, readings = make_engine(args.engine, args.base), READINGS[args.engine]
    asked = [(problem.fields["question"], family) for family in FAMILIES for problem in generate(family, args.items, 0)]
    prompts = [prompt for prompt, _ in asked]
    template = load("params.yaml").tasks["dispatch"].prompt
    best = dict.fromkeys(readings, float("inf"))
    found: dict[str, list[str]] = {}
    for _ in range(args.repeats):
        for reading in readings:
            start = time.perf_counter()
            found[reading] = dispatch(engine, prompts, Ask(template, FAMILIES, 12, reading))
            best[reading] = min(best[reading], time.perf_counter() - start)
    for reading in readings:
        right = sum(named == family for named, (_, family) in zip(found[reading], asked, strict=True))
        print(
            f"{reading:<11} {right:4d} of {len(asked)} right  {best[reading]:6.2f} s  "
            f"{len(asked) / best[reading]:6.0f} prompts/s  ratio {best['generation'] / best[reading]:5.2f}"
        )
        same = sum(a == b for a, b in zip(found["generation"], found[reading], strict=True))
        print(f"            named as by generation: {same} of {len(asked)}")


if __name__ == "__main__":
    main()
