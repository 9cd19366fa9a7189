"""One generation of the few-shot search: the whole population in one batch against one member at a time.

Run ``python benchmarks/cem.py [--population 32] [--shots 10] [--threads 1]``. The population runs under
per-sample z; a member alone runs in the faster way that it then can, its z folded into the weights. Both
decode greedily on the miniature base, under mixes of three random experts, in turns; the best times count.
"""

from __future__ import annotations

import torch
from harness import PROJECTIONS, in_turns, options, questions, random_experts

from t2.engine.base import Generation, Sampling
from t2.engine.hf import HfEngine, load_base
from t2.svf import SvfConfig, attach, mix_population


def main() -> None:
    args = options(
        __doc__,
        base="data/miniature/base",
        family="math_hard",
        population=32,
        shots=10,
        max_new_tokens=96,
        threads=1,
        repeats=3,
    )
    base, tokenizer = load_base(args.base, "float32")
    model = attach(base, SvfConfig(target_modules=PROJECTIONS))
    engine = HfEngine(model, tokenizer, batch_size=args.population * args.shots)
    prompts, sampling = questions([args.family], args.shots), Sampling(args.max_new_tokens)
    tables = random_experts(model.sigmas(), 3)
    experts = [{name: z[row] for name, z in tables.items()} for row in range(3)]
    alphas = 1 / 3 + 0.3 * torch.randn(args.population, 3, generator=torch.Generator().manual_seed(0))
    mixes = mix_population(experts, alphas).tables

    def in_one_batch() -> list[Generation]:
        rows = [member for member in range(args.population) for _ in prompts]
        return engine.generate(prompts * args.population, sampling, experts=mixes, rows=rows)

    def one_at_a_time() -> list[Generation]:
        generations = []
        for member in range(args.population):
            with torch.no_grad():
                for name, layer in model.svf_layers().items():
                    layer.svf_z["default"].copy_(mixes[name][member])
            generations += engine.generate(prompts, sampling)
        return generations

    best, found = in_turns({"batch": in_one_batch, "alone": one_at_a_time}, args.repeats)
    equal = sum(one.tokens == other.tokens for one, other in zip(found["batch"], found["alone"], strict=True))
    print(f"one CEM generation: {args.population} members x {args.shots} shots, {args.threads} thread(s)")
    print(f"  one member at a time   {best['alone']:7.2f} s")
    print(f"  population in a batch  {best['batch']:7.2f} s")
    ratio = best["alone"] / best["batch"]
    print(f"  ratio                  {ratio:7.2f}   equal replies {equal} of {len(found['alone'])}")


if __name__ == "__main__":
    main()
