"""Experts in vLLM: tokens per second of each way, seconds for a push, and memory over many experts.

Run ``python benchmarks/vllm_experts.py [--base data/miniature/base] [--items 96] [--threads 1] [--rounds 200]`` where
vLLM is installed. All ways decode the same prompts greedily and in turns, after a warm-up, and the best time counts.
The baseline of each ratio is *hf mixed*, the transformers engine with all experts in one batch; *vllm
base* is vLLM on the base alone, which is what experts cost nothing against. ``--hidden 512 --layers 8`` takes a random
Llama of that size instead of the miniature.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import torch
from harness import PROJECTIONS, in_turns, options, questions, random_experts, resident
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from t2.config.rows import Vllm
from t2.engine.base import Engine, Sampling
from t2.engine.hf import HfEngine, load_base
from t2.engine.vllm.engine import VllmEngine
from t2.svf import SvfConfig, attach, build_cache, checkpoint_weights

FAMILIES = ("math", "code", "reasoning")


def random_llama(folder: Path, tokenizer_of: str, hidden: int, layers: int) -> Path:
    """Random weights under the miniature's tokenizer, four query heads to a key-value head."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 256),
        max_position_embeddings=1024,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def compare(
    engines: dict[str, Engine], prompts: list[str], sampling: Sampling, sigmas: dict[str, Tensor], repeats: int
) -> None:
    """Prints a table: a row per engine, a column per number of experts."""
    for count in (1, 3, 12):
        experts, rows = random_experts(sigmas, count), [index % count for index in range(len(prompts))]
        for engine in engines.values():
            engine.generate(prompts[:count], Sampling(2), experts=experts, rows=rows[:count])
        given = {name: ({}, [-1] * len(prompts)) if name.endswith("base") else (experts, rows) for name in engines}
        runs = {
            name: partial(engine.generate, prompts, sampling, experts=given[name][0], rows=given[name][1])
            for name, engine in engines.items()
        }
        best, replies = in_turns(runs, repeats)
        rates = {name: sum(len(reply.tokens) for reply in replies[name]) / seconds for name, seconds in best.items()}
        print(f"{count} expert(s), {len(prompts)} prompts", flush=True)
        for name, rate in rates.items():
            same = sum(a.tokens == b.tokens for a, b in zip(replies[name], replies["hf mixed"], strict=True))
            equal = "" if name.endswith("base") else f"  replies equal to hf mixed: {same} of {len(prompts)}"
            print(f"  {name:<18} {rate:8.0f} tokens/s  ratio {rate / rates['hf mixed']:5.2f}{equal}", flush=True)


def watch_memory(name: str, engine: Engine, prompt: str, sigmas: dict[str, Tensor], rounds: int) -> None:
    """Prints resident memory over ``rounds`` new experts, each of which answers a prompt."""
    seconds, memory = [], []
    for number in range(rounds + 20):
        experts = random_experts(sigmas, 1, seed=number)
        start = time.perf_counter()
        engine.generate([prompt], Sampling(1), experts=experts, rows=[0])
        seconds.append(time.perf_counter() - start)
        memory.append(resident() / 2**20)
    # The first ones fill caches of a fixed size.
    print(
        f"{name}: {rounds} new experts, {1000 * sorted(seconds[20:])[rounds // 2]:.0f} ms each with a reply of one "
        f"token (median); resident {memory[20]:.0f} MB before, {memory[20 + rounds // 2]:.0f} half way, "
        f"{memory[-1]:.0f} after",
        flush=True,
    )


def main() -> None:
    args = options(
        __doc__,
        base="data/miniature/base",
        hidden=int,
        layers=8,
        items=96,
        max_new_tokens=48,
        threads=1,
        repeats=3,
        rounds=200,
    )
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(args.base)
        if args.hidden:
            base = random_llama(Path(scratch) / "model", args.base, args.hidden, args.layers)
        basis = build_cache(checkpoint_weights(base, PROJECTIONS, torch.float32), Path(scratch) / "basis").folder
        model, tokenizer = load_base(base, "float32")
        hf = HfEngine(attach(model, SvfConfig(target_modules=PROJECTIONS, basis=str(basis))), tokenizer, batch_size=256)
        usual = {"slots": 12, "max_num_seqs": 256, "max_num_batched_tokens": None, "max_model_len": None}
        usual |= {"gpu_memory_utilisation": 0.5, "kv_cache_gb": 1.0, "eager": True}
        usual |= {"tensor_parallel": 1, "own_process": False, "sleep": False}
        folded, per_request = (
            VllmEngine(base, Vllm(experts=way, **usual), basis=basis) for way in ("folded", "per_request")
        )
        torch.set_num_threads(args.threads)
        prompts, sigmas = questions(FAMILIES, args.items), hf.model.sigmas()
        parameters = sum(weight.numel() for weight in checkpoint_weights(base, PROJECTIONS).values())
        print(f"{base.name}: {parameters / 1e6:.1f} M parameters in projections, float32, {args.threads} thread(s)")

        engines = {"hf mixed": hf, "vllm folded": folded, "vllm per request": per_request, "vllm base": folded}
        compare(engines, prompts, Sampling(args.max_new_tokens), sigmas, args.repeats)

        push = folded.backend.push
        experts = [{name: table[row] for name, table in random_experts(sigmas, 8).items()} for row in range(8)]
        seconds = []
        for z in [*experts, {}]:
            start = time.perf_counter()
            push(z)
            seconds.append(time.perf_counter() - start)
        print(f"a push: {1000 * sorted(seconds)[4]:.0f} ms (median of 9; back to the base {1000 * seconds[-1]:.0f} ms)")
        watch_memory("vllm folded", folded, prompts[0], sigmas, args.rounds)
        watch_memory("vllm per request", per_request, prompts[0], sigmas, args.rounds)


if __name__ == "__main__":
    main()
