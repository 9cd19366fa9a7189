"""The first pass of two, read by generation and by the likelihood of each category's reply.

Run ``python benchmarks/dispatch.py [--items 200] [--threads 1]``: the miniature base is asked for the category of
prompts of every family and of none, in turns; the best times count. Generation is the baseline of the ratio.
"""

from __future__ import annotations

import argparse
import time

import torch

from t2.adaptation.dispatch import dispatch
from t2.config import OTHER, Reading
from t2.engine.hf import HfEngine, load_base
from t2.miniature.problems import generate
from t2.svf import SvfConfig, attach

FAMILIES = ("math", "code", "reasoning", OTHER)
READINGS: tuple[Reading, ...] = ("generation", "likelihood")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="data/miniature/base")
    parser.add_argument("--items", type=int, default=200, help="of each family")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load_base(args.base, "float32")
    engine = HfEngine(attach(model, SvfConfig(target_modules=["q_proj"])), tokenizer, batch_size=320)
    asked = [(item.prompt, family) for family in FAMILIES for item in generate(family, args.items, seed=0)]
    prompts = [prompt for prompt, _ in asked]
    best = dict.fromkeys(READINGS, float("inf"))
    found: dict[str, list[str]] = {}
    for _ in range(args.repeats):
        for reading in READINGS:
            start = time.perf_counter()
            found[reading] = dispatch(engine, prompts, FAMILIES, max_new_tokens=12, reading=reading)
            best[reading] = min(best[reading], time.perf_counter() - start)
    for reading in READINGS:
        right = sum(named == family for named, (_, family) in zip(found[reading], asked, strict=True))
        print(
            f"{reading:<11} {right:4d} of {len(asked)} right  {best[reading]:6.2f} s  "
            f"{len(asked) / best[reading]:6.0f} prompts/s  ratio {best['generation'] / best[reading]:5.2f}"
        )
    same = sum(a == b for a, b in zip(*found.values(), strict=True))
    print(f"named alike: {same} of {len(asked)}")


if __name__ == "__main__":
    main()
