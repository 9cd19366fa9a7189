"""SVF with vLLM: many experts in one engine, each request under its own, or under a mixture of them.

    pip install -e '.[vllm]'
    python examples/serve_with_vllm.py EXPERT [EXPERT …] [--base data/miniature/base] [--basis basis]

Experts live in vLLM's adapter slots: nothing is merged or pushed, and a batch may mix them. What a slot needs of the
base is its basis cache, which is made once. The same plugin serves experts by name through vLLM's OpenAI server: see
docs/vllm.md. Where no plugin is wanted, ``t2 expert export`` makes a merged checkpoint or a LoRA of an expert.
"""

from __future__ import annotations

import argparse

import torch

from t2.config.rows import Vllm
from t2.engine.base import Sampling
from t2.engine.vllm.engine import VllmEngine
from t2.svf import build_cache, checkpoint_weights, load_expert, mix, stack
from t2.svf.base_checkpoint import checkpoint_folder

QUESTION = "Tom has 12 apples and buys 7 more. How many apples does Tom have?"


def main() -> None:
    """Asks one question under the base model, under each expert and under their even mixture, in one batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experts", nargs="+", help="adapter folders")
    parser.add_argument("--base", default="data/miniature/base", help="a folder, or a Hugging Face id")
    parser.add_argument("--basis", default="basis", help="where the base's basis cache is, or goes")
    parser.add_argument("--question", default=QUESTION)
    arguments = parser.parse_args()

    folder = checkpoint_folder(arguments.base)
    experts = [load_expert(path) for path in arguments.experts]
    cache = build_cache(checkpoint_weights(folder, list(experts[0].z), torch.float32), arguments.basis)
    for expert in experts:
        expert.check(cache.matrices, arguments.base)
    settings = Vllm(
        experts="per_request",
        slots=len(experts) + 1,
        max_num_seqs=64,
        max_num_batched_tokens=None,
        max_model_len=None,
        gpu_memory_utilisation=0.5,
        kv_cache_gb=0.5,
        tensor_parallel=1,
        own_process=False,
        sleep=False,
        eager=True,
    )
    engine = VllmEngine(folder, settings, basis=arguments.basis)
    z = [expert.z for expert in experts]
    tables = stack([*z, mix(z, torch.full((len(z),), 1 / len(z)))])
    names = ["base", *arguments.experts, "mixture"]
    rows = [-1, *range(len(z) + 1)]  # −1 is the base
    replies = engine.generate([arguments.question] * len(rows), Sampling(80), experts=tables, rows=rows)
    for name, reply in zip(names, replies, strict=True):
        print(f"{name}: {reply.text}")


if __name__ == "__main__":
    main()
