"""One generation of the few-shot search: the whole population in one batch against one member at a time.

Run ``python benchmarks/cem.py [--population 32] [--shots 10] [--threads 1]``. The population runs under
per-sample z; a member alone runs in the faster way that it then can, its z folded into the weights. Both
decode greedily on the miniature base, under mixes of three random experts, in turns; the best times count.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from t2.engine.base import Generation, Sampling
from t2.engine.hf import HfEngine, load_base
from t2.miniature.problems import generate
from t2.svf import SvfConfig, attach, mix_population

PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def random_mixes(sigmas: dict[str, Tensor], population: int) -> dict[str, Tensor]:
    """z' (P, r) by module name, of P mixes of three experts near the base."""
    generator = torch.Generator().manual_seed(0)
    experts = [
        {name: 1 + 0.1 * torch.randn(len(sigma), generator=generator) for name, sigma in sigmas.items()}
        for _ in range(3)
    ]
    alphas = 1 / 3 + 0.3 * torch.randn(population, 3, generator=generator)
    return mix_population(experts, alphas).tables


def in_one_batch(
    engine: HfEngine, prompts: list[str], sampling: Sampling, tables: dict[str, Tensor], population: int
) -> list[Generation]:
    rows = [member for member in range(population) for _ in prompts]
    return engine.generate(prompts * population, sampling, experts=tables, rows=rows)


def one_at_a_time(
    engine: HfEngine, prompts: list[str], sampling: Sampling, tables: dict[str, Tensor], population: int
) -> list[Generation]:
    generations = []
    for member in range(population):
        with torch.no_grad():
            for name, layer in engine.model.svf_layers().items():
                layer.svf_z["default"].copy_(tables[name][member])
        generations += engine.generate(prompts, sampling)
    return generations


def timed(run: Callable[..., list[Generation]], *args: object) -> tuple[float, list[Generation]]:
    start = time.perf_counter()
    generations = run(*args)
    return time.perf_counter() - start, generations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", default="data/miniature/base")
    parser.add_argument("--family", default="math_hard")
    parser.add_argument("--population", type=int, default=32)
    parser.add_argument("--shots", type=int, default=10)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    base, tokenizer = load_base(args.base, "float32")
    model = attach(base, SvfConfig(target_modules=PROJECTIONS))
    engine = HfEngine(model, tokenizer, batch_size=args.population * args.shots)
    prompts = [item.prompt for item in generate(args.family, args.shots, seed=0)]
    work = engine, prompts, Sampling(args.max_new_tokens), random_mixes(model.sigmas(), args.population)

    timings: dict[str, list[float]] = {"batch": [], "alone": []}
    for _ in range(args.repeats):
        seconds, together = timed(in_one_batch, *work, args.population)
        timings["batch"].append(seconds)
        seconds, alone = timed(one_at_a_time, *work, args.population)
        timings["alone"].append(seconds)
    batch, single = min(timings["batch"]), min(timings["alone"])
    equal = sum(one.tokens == other.tokens for one, other in zip(together, alone, strict=True))
    print(f"one CEM generation: {args.population} members x {args.shots} shots, {args.threads} thread(s)")
    print(f"  one member at a time   {single:7.2f} s")
    print(f"  population in a batch  {batch:7.2f} s")
    print(f"  ratio                  {single / batch:7.2f}   equal replies {equal} of {len(alone)}")


if __name__ == "__main__":
    main()
