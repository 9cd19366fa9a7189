"""Experts folded into the weights of a live vLLM engine: one at a time, pushed from the pristine base."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from t2.engine.vllm_svf.slots import digest
from t2.svf import Basis, BasisCache, scaled_weight

Tensors = Iterable[tuple[str, Tensor]]


class Folded:
    """Runs the requests of one expert after those of another, each under W' (float32 arithmetic, rounded once).

    W' is always made from the checkpoint's weights, never from what the engine holds, so that the way back to
    the base is exact.
    """

    def __init__(self, checkpoint: Path, basis: BasisCache, dtype: torch.dtype, *, own_process: bool) -> None:
        """Nothing is read yet.

        Args:
            checkpoint: The base model's folder, with safetensors files.
            basis: Made from these weights in this dtype.
            dtype: Of the engine's weights.
            own_process: Whether the engine runs in a process of its own, where tensors go by file.
        """
        self._basis = basis
        self._dtype = dtype
        self._own_process = own_process
        self._files: dict[str, Path] = {}
        for path in sorted(checkpoint.glob("*.safetensors")):
            with safe_open(path, framework="pt") as shard:
                self._files |= dict.fromkeys(shard.keys(), path)
        self._bases: dict[str, Basis] = {}
        self._live: str | None = digest({})
        self._changed: set[str] = set()

    def options(self) -> dict[str, Any]:
        """What ``vllm.LLM`` has to be called with."""
        return {"worker_extension_cls": f"{__name__}.Pushing"}

    def start(self, llm: Any) -> None:
        """Takes over a fresh engine."""
        self._llm = llm
        self._fused: dict[str, list[str]] = llm.collective_rpc("fused_modules")[0]

    def batches(self, experts: Mapping[str, Tensor], rows: Sequence[int]) -> Iterator[tuple[list[int], None]]:
        """Pushes one expert after the other; yields the indices of its rows while it is live."""
        experts_in = sorted(set(rows))
        z = {row: {name: table[row] for name, table in experts.items()} if row >= 0 else {} for row in experts_in}
        for row in sorted(experts_in, key=lambda row: digest(z[row]) != self._live):
            self.push(z[row])
            yield [index for index, of in enumerate(rows) if of == row], None

    def push(self, z: Mapping[str, Tensor]) -> None:
        """Makes an expert live; {} is the base.

        Args:
            z: (r,) by module name; other modules become the base's.

        Raises:
            RuntimeError: A tensor did not arrive. The engine's weights are void until the next push.
        """
        name = digest(z)
        if name == self._live:
            return
        # Until the engine has answered, nobody knows what it holds.
        self._live, self._changed = None, self._changed | z.keys()
        modules = self._whole(self._changed)
        self._send(item for module in modules for item in self._tensors(module, z.get(module)))
        # A cached prompt would otherwise be continued from keys and values of the old weights.
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running; push between calls")
        self._live, self._changed = name, set(z)

    def _send(self, weights: Tensors) -> None:
        """Hands tensors to the worker, which checks that they arrived."""
        if self._own_process:
            with tempfile.TemporaryDirectory(prefix="t2-push-") as folder:
                for number, (key, tensor) in enumerate(weights):
                    save_file({key: tensor.contiguous()}, Path(folder) / f"{number:06d}.safetensors")
                self._llm.collective_rpc("push", args=(folder,))
        else:
            self._llm.collective_rpc("push", args=(weights,))

    def _whole(self, modules: Iterable[str]) -> list[str]:
        """With the modules that vLLM holds in one matrix with them: part of such a matrix would be void."""
        fused = {part: parts for parts in self._fused.values() for part in parts}
        found = dict.fromkeys(
            f"{parent}.{part}"
            for parent, _, child in (module.rpartition(".") for module in sorted(modules))
            for part in fused.get(child, [child])
        )
        return list(found)

    def _tensors(self, module: str, z: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """All of a module's tensors, biases included, with W' in place of W."""
        for key in (f"{module}.weight", f"{module}.bias"):
            if key not in self._files:
                continue
            with safe_open(self._files[key], framework="pt") as shard:
                tensor = shard.get_tensor(key).to(self._dtype)
            if key.endswith(".weight") and z is not None:
                if module not in self._bases:
                    self._bases[module] = self._basis.load(module, tensor)
                _, q, side = self._bases[module]
                tensor = scaled_weight(tensor, q, z, side)
            yield key, tensor


class Pushing:
    """The worker's side: methods that vLLM adds to its worker class."""

    model_runner: Any
    reload_weights: Any

    def fused_modules(self) -> dict[str, list[str]]:
        """Which of the checkpoint's modules vLLM holds in one matrix, by that matrix's name."""
        return dict(getattr(self.model_runner.get_model(), "packed_modules_mapping", {}))

    def push(self, source: str | Tensors) -> None:
        """Puts tensors in place of the model's, whole fused modules.

        Args:
            source: Pairs of the checkpoint's key and a tensor, or a folder of safetensors files.

        Raises:
            RuntimeError: A module does not compute what its new weight does.
        """
        expected: dict[str, Tensor] = {}

        def watched() -> Iterator[tuple[str, Tensor]]:
            for key, tensor in _read(source) if isinstance(source, str) else source:
                wide = tensor.float().cpu()
                expected[key] = wide if key.endswith(".bias") else wide @ _probe(tensor.shape[1], tensor.dtype)
                yield key, tensor

        with _quiet("vllm.model_executor.model_loader.reload"):
            self.reload_weights(weights_iterator=watched())
        for module in {key.rpartition(".")[0] for key in expected}:
            self._check(module, expected)

    def _check(self, module: str, expected: Mapping[str, Tensor]) -> None:
        """Compares what a module makes of a probe with what its new tensors make of it.

        The tensors themselves cannot be compared: vLLM packs and fuses weights.
        """
        parent, _, child = module.rpartition(".")
        fused = {part: (whole, parts) for whole, parts in self.fused_modules().items() for part in parts}
        whole, parts = fused.get(child, (child, [child]))
        layer = self.model_runner.get_model().get_submodule(f"{parent}.{whole}")
        tensors = ["weight"] if layer.bias is None else ["weight", "bias"]
        if missing := [f"{parent}.{p}.{t}" for p in parts for t in tensors if f"{parent}.{p}.{t}" not in expected]:
            raise RuntimeError(f"{module} was pushed without {missing}, which vLLM holds with it; push them together")
        dtype = self.model_runner.model_config.dtype
        probe = _probe(layer.input_size, dtype).to(self.model_runner.device, dtype)
        with torch.inference_mode():
            output = layer.quant_method.apply(layer, probe[None], layer.bias)[0].float().cpu()
        sizes = layer.output_sizes if len(parts) > 1 else [len(output)]
        found = output.split(sizes)[parts.index(child)]
        wanted = torch.stack([expected[f"{module}.{tensor}"] for tensor in tensors]).sum(0)
        error = float((found - wanted).norm() / wanted.norm())
        # What is right differs by the rounding of the result to the model's type.
        if not error <= max(torch.finfo(dtype).eps, 1e-5):
            raise RuntimeError(
                f"{module} did not arrive in the engine: its output is off by {error:.1e} (relative); push it again"
            )


def _read(folder: str) -> Iterator[tuple[str, Tensor]]:
    for path in sorted(Path(folder).glob("*.safetensors")):
        yield from load_file(path).items()


def _probe(size: int, dtype: torch.dtype) -> Tensor:
    """The same numbers on both sides of a comparison, (size,) float32 that ``dtype`` can hold."""
    return torch.randn(size, generator=torch.Generator().manual_seed(size)).to(dtype).float()


@contextlib.contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without vLLM's warnings that other modules were not pushed."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
