"""The worker's side of a push: W' is made where the weights live, in each of vLLM's processes that holds some."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import load
from torch import Tensor

from t2.svf import Basis, BasisCache, scaled_weight


class BaseWeights:
    """The base's tensors as the checkpoint has them, and W' made from them, on a worker's device."""

    def __init__(self, checkpoint: Path, basis: BasisCache, dtype: torch.dtype, device: torch.device) -> None:
        """Nothing is read yet.

        Args:
            checkpoint: The base model's folder, with safetensors files.
            basis: Made from these weights in this dtype.
            dtype: Of the engine's weights.
            device: Where they live.
        """
        self._basis = basis
        self._dtype = dtype
        self._device = device
        self._files: dict[str, Path] = {}
        for path in sorted(checkpoint.glob("*.safetensors")):
            with safe_open(path, framework="pt") as shard:
                self._files |= dict.fromkeys(shard.keys(), path)
        self._bases: dict[str, Basis] = {}

    def tensors(self, module: str, z: Tensor | None) -> Iterator[tuple[str, Tensor]]:
        """All of a module's tensors with their keys, biases included, with W' (z of (r,)) in place of W.

        Raises:
            ValueError: The basis is damaged, or belongs to other weights.
        """
        for key in (f"{module}.weight", f"{module}.bias"):
            if key not in self._files:
                continue
            with safe_open(self._files[key], framework="pt") as shard:
                tensor = shard.get_tensor(key).to(self._dtype)
            if key.endswith(".bias") or z is None:
                yield key, tensor.to(self._device)
                continue
            if module not in self._bases:
                self._bases[module] = self._basis.load(module, tensor)
            # Bases wait on the CPU: together they take as much memory as the weights.
            _, q, side = self._bases[module]
            yield key, scaled_weight(tensor.to(self._device), q.to(self._device), z.to(self._device), side)


class Part(NamedTuple):
    """What a worker holds of one of the checkpoint's matrices.

    Attributes:
        layer: vLLM's layer, which may hold several matrices in one.
        rows: Of the matrix.
        columns: Of the matrix.
        output: Where the layer's output has these rows.
        probe: An input for these columns, in the model's dtype.
    """

    layer: Any
    rows: slice
    columns: slice
    output: slice
    probe: Tensor

    def expected(self, tensor: Tensor) -> Tensor:
        """What the matrix (m, n) makes of the probe, or its bias (m,) adds to that, in float32."""
        own = tensor[self.rows].float()
        return own if own.ndim == 1 else own[:, self.columns] @ self.probe.float()

    def actual(self) -> Tensor:
        """What the layer makes of it, before any sum over workers, so that each answers for itself."""
        with torch.inference_mode():
            output: Tensor = self.layer.quant_method.apply(self.layer, self.probe[None], self.layer.bias)
        return output[0, self.output].float()


class Pushing:
    """Methods that vLLM adds to its worker class."""

    model_runner: Any
    reload_weights: Any

    def open_base(self, checkpoint: str, basis: str) -> None:
        """Takes note of the base model's folder and its basis cache; once, before the first push.

        Raises:
            ValueError: There is no basis cache.
        """
        config, device = self.model_runner.model_config, self.model_runner.device
        self.svf_base = BaseWeights(Path(checkpoint), BasisCache.open(basis), config.dtype, device)
        self.svf_changed: set[str] = set()

    def push(self, packed: bytes) -> str:
        """Makes the model the base under an expert.

        Args:
            packed: z (r,) by module name, as safetensors has it; other modules become the base's.

        Returns:
            What went wrong: the weights are void then until the next push. Empty: nothing. An exception would leave
            the other workers' answers behind, which vLLM would take for those to its next call.
        """
        try:
            self._push(load(packed))
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""

    def _push(self, z: Mapping[str, Tensor]) -> None:
        # Until all is checked, any of these may be what the model holds.
        self.svf_changed |= z.keys()
        expected: dict[str, tuple[Part, Tensor]] = {}
        failures: list[Exception] = []

        def tensors() -> Iterator[tuple[str, Tensor]]:
            try:
                for module in self._whole(self.svf_changed):
                    for key, tensor in self.svf_base.tensors(module, z.get(module)):
                        part, so_far = expected.get(module) or (self._part(module, tensor), torch.zeros(()))
                        expected[module] = part, part.expected(tensor) + so_far.to(tensor.device)
                        yield key, tensor
            except Exception as error:
                # Through vLLM it would leave layers half taken apart, which the next push could not mend.
                failures.append(error)

        with _quiet("vllm.model_executor.model_loader.reload"):
            self.reload_weights(weights_iterator=tensors())
        if failures:
            raise failures.pop()  # held here too, it would hold on to this frame, and the model
        for module, (part, wanted) in expected.items():
            _check(module, part, wanted)
        self.svf_changed = set(z)

    def _fused(self, child: str) -> tuple[str, list[str]]:
        """The name of the layer that holds a module, by the last part of its name, and all that it holds."""
        mapping = getattr(self.model_runner.get_model(), "packed_modules_mapping", {})
        return next(((whole, parts) for whole, parts in mapping.items() if child in parts), (child, [child]))

    def _whole(self, modules: Iterable[str]) -> list[str]:
        """With the modules that vLLM holds in one matrix with them: part of such a matrix would be void."""
        named = (module.rpartition(".") for module in sorted(modules))
        return list(dict.fromkeys(f"{parent}.{part}" for parent, _, child in named for part in self._fused(child)[1]))

    def _part(self, module: str, weight: Tensor) -> Part:
        """Where this worker holds its part of a matrix (m, n)."""
        parent, _, child = module.rpartition(".")
        whole, parts = self._fused(child)
        layer = self.model_runner.get_model().get_submodule(f"{parent}.{whole}")
        sizes = layer.output_partition_sizes
        at = parts.index(child)
        start = sum(sizes[:at])
        width = getattr(layer, "input_size_per_partition", layer.input_size)
        columns = held(weight.shape[1], width, layer.tp_rank, layer.tp_size)
        return Part(
            layer=layer,
            rows=held(weight.shape[0], sizes[at], layer.tp_rank, layer.tp_size),
            columns=columns,
            output=slice(start, start + sizes[at]),
            probe=_probe(weight)[columns],
        )


def held(total: int, size: int, rank: int, workers: int) -> slice:
    """What the worker of a rank holds of a dimension, in pieces of ``size``.

    Where there are fewer pieces than workers (one piece: a dimension that is not divided; key-value heads),
    neighbours hold the same.
    """
    start = rank * total // (workers * size) * size
    return slice(start, start + size)


def _probe(weight: Tensor) -> Tensor:
    """The same input (n,) for weights (m, n) of one width, in their dtype and on their device."""
    width = weight.shape[1]
    return torch.randn(width, generator=torch.Generator().manual_seed(width)).to(weight.device, weight.dtype)


def _check(module: str, part: Part, wanted: Tensor) -> None:
    """Compares what a module makes of a probe with what its new tensors make of it.

    The tensors themselves cannot be compared: vLLM packs and fuses weights.

    Raises:
        RuntimeError: They are further apart than rounding explains.
    """
    error = float((part.actual() - wanted).norm() / wanted.norm())
    # What is right differs by the rounding of the result to the model's type.
    if not error <= max(torch.finfo(part.probe.dtype).eps, 1e-5):
        raise RuntimeError(
            f"{module} did not arrive in the engine: its output is off by {error:.1e} (relative); push it again"
        )


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
