"""Time and peak memory of one training step: SVF folded, SVF factored, the reference form, LoRA r = 16.

Run ``python benchmarks/training_step.py [--hidden 512 1024] [--threads 1]``. A step is forward and backward
of the next-token loss over a few micro-batches and one optimiser step, on a random Llama of one layer with
all seven projections adapted. The *reference form* rebuilds W' = U diag(σ z) Vᵀ for every matrix once a step
and takes the gradient of z from a dense gradient of W'.

Each method runs in processes of its own, in turns: some for the time, of which the best step counts, and one
for the memory, the peak resident size in the steps above that of the loaded base model. Time is CPU time over
all threads, which other work on the machine disturbs less than wall time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from operator import itemgetter

import torch
from harness import PROJECTIONS, options, reset_peak, resident
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from t2.svf import SvfConfig

METHODS = {
    "base": "frozen base, forward only",
    "folded": "SVF, folded",
    "factored": "SVF, factored",
    "reference": "SVF, reference form",
    "lora": "LoRA, r = 16",
}


class ReferenceForm:
    """W' = U diag(σ z) Vᵀ for every targeted matrix of a model, by its full decomposition."""

    def __init__(self, model: nn.Module) -> None:
        self.layers = [m for n, m in model.named_modules() if n.rsplit(".", 1)[-1] in PROJECTIONS]
        self.bases = [torch.linalg.svd(layer.weight, full_matrices=False) for layer in self.layers]
        self.z = [nn.Parameter(torch.ones_like(s)) for _, s, _ in self.bases]

    def rebuild(self) -> None:
        """Gives every layer the W' of the present z."""
        self.rebuilt = [(u * (s * z)) @ vh for (u, s, vh), z in zip(self.bases, self.z, strict=True)]
        for layer, weight in zip(self.layers, self.rebuilt, strict=True):
            layer.weight = nn.Parameter(weight.detach())

    def backward(self) -> None:
        """Passes the gradients of the W' on to z."""
        for layer, weight in zip(self.layers, self.rebuilt, strict=True):
            weight.backward(layer.weight.grad)


def make_base(hidden: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    heads = hidden // 64
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=1024,
            hidden_size=hidden,
            intermediate_size=7 * hidden // 2,  # Llama-3-8B's ratios
            num_hidden_layers=1,
            num_attention_heads=heads,
            num_key_value_heads=heads // 4,
            use_cache=False,
        )
    ).requires_grad_(False)


def adapt(base: LlamaForCausalLM, method: str) -> nn.Module:
    if method in ("folded", "factored"):
        model: PeftModel = get_peft_model(base, SvfConfig(target_modules=PROJECTIONS, init_std=0.01))
        model.set_folding(method == "folded")
        return model
    if method == "lora":
        return get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules=PROJECTIONS))
    return base


def measure(method: str, chosen: argparse.Namespace) -> dict[str, float]:
    """Best CPU seconds of a step, and peak bytes above the loaded base model."""
    base = make_base(chosen.hidden[0])
    tokens = torch.randint(0, 1024, (chosen.micro_batches, chosen.batch, chosen.length))
    before = resident()
    model = adapt(base, method).train()
    reference = ReferenceForm(base) if method == "reference" else None
    trained = reference.z if reference else [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-3) if trained else None
    reset_peak()  # the decomposition had raised it
    times = []
    for _ in range(chosen.steps):
        start = time.process_time()
        if reference:
            reference.rebuild()
        for batch in tokens:
            loss = model(input_ids=batch, labels=batch).loss
            if optimiser:
                loss.backward()
        if reference:
            reference.backward()
        if optimiser:
            optimiser.step()
            optimiser.zero_grad()
        times.append(time.process_time() - start)
    return {
        "seconds": min(times),
        "bytes": resident("VmHWM") - before,
        "trained": sum(parameter.numel() for parameter in trained),
    }


def main() -> None:
    chosen = options(
        __doc__, hidden=[512, 1024], micro_batches=4, batch=8, length=256, steps=2, rounds=2, threads=1, one=str
    )
    if chosen.one:
        print(json.dumps(measure(chosen.one, chosen)))
        return
    for hidden in chosen.hidden:
        tokens = f"{chosen.micro_batches} x {chosen.batch} x {chosen.length} tokens"
        print(f"hidden {hidden}, {tokens}, {chosen.threads} threads")
        rounds = [{m: in_own_process(m, hidden, chosen) for m in METHODS} for _ in range(chosen.rounds)]
        results = {method: min((r[method] for r in rounds), key=itemgetter("seconds")) for method in METHODS}
        for method, found in results.items():
            found["bytes"] = in_own_process(method, hidden, chosen, returns_memory=True)["bytes"]
        reference = results["reference"]
        print(f"{'':>26} {'trained':>9} {'CPU s':>9} {'reference/it':>13} {'MB':>8} {'reference/it':>13}")
        for method, found in results.items():
            print(
                f"{METHODS[method]:>26} {found['trained']:9,.0f} {found['seconds']:9.3f} "
                f"{reference['seconds'] / found['seconds']:13.2f} {found['bytes'] / 1e6:8.0f} "
                f"{reference['bytes'] / found['bytes']:13.2f}"
            )


def in_own_process(
    method: str, hidden: int, chosen: argparse.Namespace, returns_memory: bool = False
) -> dict[str, float]:
    command = [sys.executable, __file__, "--one", method, "--hidden", str(hidden)]
    for name in ("micro_batches", "batch", "length", "steps", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(chosen, name))]
    # glibc keeps large freed blocks unless told otherwise, which hides the peak but saves time.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"} if returns_memory else None
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
