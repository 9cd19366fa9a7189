"""Experts and mixtures as model names of vLLM's OpenAI server: ``svf:math``, ``svf:math=0.3,code=0.7,base=0.1``."""

from __future__ import annotations

import asyncio
import math
import os
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.exceptions import VLLMNotFoundError, VLLMValidationError
from vllm.lora.request import LoRARequest

from t2.engine.vllm_svf.slots import BASIS_VARIABLE, EXPERTS_VARIABLE, slot_number, write_slot
from t2.svf import BasisCache, Expert, Mixture, load_expert
from t2.svf.mixture import BASE, Form

PREFIX = "svf:"

FORM_VARIABLE, RENORMALISE_VARIABLE = "T2_SVF_FORM", "T2_SVF_RENORMALISE"
"""The form of mixtures, as a budget's ``form`` and ``renormalise`` have it: normalised and true, if not given."""
MAX_WEIGHT_VARIABLE = "T2_SVF_MAX_WEIGHT"
"""The largest absolute weight that a client may give; 10, if not given."""
MIXES_VARIABLE = "T2_SVF_MIXES"
"""Mixes, beside the experts themselves, that the server lists and keeps files of; 64, if not given."""

_FORMS: dict[str, Form] = {form: form for form in get_args(Form)}
_GRACE_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True)
class Rules:
    """What clients may ask for, and what it means.

    Attributes:
        form: Of the mixtures.
        renormalise: Whether their free form is rescaled.
        max_weight: The largest absolute weight.
        mixes: How many are remembered.
    """

    form: Form = "normalised"
    renormalise: bool = True
    max_weight: float = 10.0
    mixes: int = 64

    @classmethod
    def from_environment(cls) -> Rules:
        """As the environment has them.

        Raises:
            ValueError: A variable has no meaning.
        """
        return cls(
            _variable(FORM_VARIABLE, _FORMS.__getitem__, cls.form, "normalised or free"),
            _variable(
                RENORMALISE_VARIABLE, {"true": True, "false": False}.__getitem__, cls.renormalise, "true or false"
            ),
            _variable(MAX_WEIGHT_VARIABLE, _positive, cls.max_weight, "a number above 0"),
            _variable(MIXES_VARIABLE, _count, cls.mixes, "a number of mixes, 1 or more"),
        )


class _Adapter(LoRARequest, weakref=True, array_like=True, omit_defaults=True):  # type: ignore[call-arg]
    """A request for an expert, whose end can be noticed; else vLLM's own."""


class ServedExperts(dict[str, LoRARequest]):
    """vLLM's adapters by name, in which every mixture of the experts is found, and made when it is asked for.

    All spellings of a mixture are one adapter, whose number and files follow from z. Experts stay; of mixes the least
    recently used are forgotten. Files are written once and live as long as a request that may need them: vLLM reads
    an adapter again whenever it has dropped it, and an adapter that it cannot read ends the engine.
    """

    def __init__(self, experts: Mapping[str, Expert], basis: BasisCache, rules: Rules) -> None:
        """Checks the experts against the basis.

        Raises:
            ValueError: An expert was made for other base weights, or has the base's name.
        """
        super().__init__()
        for name, expert in experts.items():
            if name == BASE:
                raise ValueError(f"{name!r} is the base model's name in a mix; call the expert otherwise")
            try:
                expert.check(basis.matrices, str(basis.folder), quantisation=expert.provenance.get("quantisation"))
            except ValueError as error:
                raise ValueError(f"{error}; name experts of the served model in {EXPERTS_VARIABLE}") from None
        self._experts = {name: expert.z for name, expert in experts.items()}
        self._rules = rules
        needs_sigma = rules.form == "free" and rules.renormalise
        modules = {module for z in self._experts.values() for module in z} if needs_sigma else ()
        self._sigma = {module: basis.load(module).sigma for module in modules}
        self._alone = [f"{PREFIX}{name}" for name in experts]
        self._folder = tempfile.TemporaryDirectory(prefix="t2-served-")
        self._users: Counter[Path] = Counter()
        self._removals: set[asyncio.Task[None]] = set()

    @classmethod
    def from_environment(cls) -> ServedExperts:
        """With the experts that the environment names (``name=folder,…``).

        Raises:
            ValueError: A variable has no meaning, a folder holds no expert, or there is no basis cache.
        """
        folders = [entry.split("=", 1) for entry in os.environ[EXPERTS_VARIABLE].split(",")]
        if any(len(entry) != 2 or not all(entry) for entry in folders):
            raise ValueError(
                f"{EXPERTS_VARIABLE} is {os.environ[EXPERTS_VARIABLE]!r}; it must be name=folder, more behind commas"
            )
        basis = BasisCache.open(os.environ.get(BASIS_VARIABLE, f"${BASIS_VARIABLE}"))
        return cls({name: load_expert(folder) for name, folder in folders}, basis, Rules.from_environment())

    async def open(self, models: OpenAIServingModels) -> None:
        """Takes the place of the server's own table of adapters, and lists the experts.

        Raises:
            RuntimeError: An expert does not fit the model.
        """
        self._engine, self._loop = models.engine_client, asyncio.get_running_loop()
        self.update(models.lora_requests)
        models.lora_requests = self
        for name in self._alone:
            # vLLM would load it at its first use, in the middle of a step, where a failure ends the engine.
            await self._engine.add_lora(self[name])

    def __contains__(self, name: object) -> bool:
        return self._find(str(name)) is not None

    def __getitem__(self, name: str) -> LoRARequest:
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        return found

    def _find(self, name: str) -> LoRARequest | None:
        """The adapter that a name means; None: another than a mixture's, which the server does not know.

        Raises:
            VLLMNotFoundError: It names an unknown expert.
            VLLMValidationError: It is no mixture, or none that is served.
        """
        if not name.startswith(PREFIX):
            return self.get(name)
        mixture = self._read(name)
        key = f"{PREFIX}{mixture}"
        # Last in the dictionary is most recently used.
        found = self.get(key) if key in self._alone else self.pop(key, None)
        self[key] = found = found or self._make(key, mixture)
        mixes = [other for other in self if other.startswith(PREFIX) and other not in self._alone]
        for forgotten in mixes[: -self._rules.mixes]:
            del self[forgotten]
        return found

    def _read(self, name: str) -> Mixture:
        """The mixture that a name spells."""
        try:
            mixture = Mixture.parse(name.removeprefix(PREFIX), self._rules.form, self._rules.renormalise)
        except ValueError as error:
            raise VLLMValidationError(f"{name!r} is no mixture: {error}", parameter="model") from None
        if unknown := sorted(mixture.alpha.keys() - self._experts.keys() - {BASE}):
            raise VLLMNotFoundError(f"there is no expert {unknown[0]!r}; this server has {', '.join(self._alone)}")
        if mixture.largest > self._rules.max_weight:
            raise VLLMValidationError(
                f"{name!r} is not served: its largest weight is {mixture.largest:g}; {MAX_WEIGHT_VARIABLE} allows "
                f"{self._rules.max_weight:g}",
                parameter="model",
            )
        return mixture

    def _make(self, name: str, mixture: Mixture) -> LoRARequest:
        """A new adapter with its files."""
        try:
            z = mixture.z(self._experts, self._sigma)
            path = write_slot(z, Path(self._folder.name))
        except ValueError as error:
            raise VLLMValidationError(f"{name!r} cannot be mixed: {error}", parameter="model") from None
        adapter = _Adapter(name, slot_number(path.name), str(path))
        self._users[path] += 1
        weakref.finalize(adapter, self._release, path).atexit = False
        return adapter

    def _release(self, path: Path) -> None:
        """Notes that an adapter of a folder is gone, for this process; from any thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._remove_soon, path)

    def _remove_soon(self, path: Path) -> None:
        self._users[path] -= 1
        removal = self._loop.create_task(self._remove(path))
        self._removals.add(removal)
        removal.add_done_callback(self._removals.discard)

    async def _remove(self, path: Path) -> None:
        """Removes a folder that nobody uses, once the engine has heard that its last request is over."""
        await asyncio.sleep(_GRACE_SECONDS)
        # The engine answers in order: what it was told before it has then taken note of.
        await self._engine.is_sleeping()
        # None: another adapter of the folder was removed with it.
        if self._users.get(path) == 0:
            del self._users[path]
            shutil.rmtree(path)


def serve_experts(served: ServedExperts) -> None:
    """Makes the server of this process, which is yet to start, know experts by name."""

    async def init_static_loras(models: OpenAIServingModels) -> None:
        await _INIT_STATIC_LORAS(models)
        await served.open(models)

    OpenAIServingModels.init_static_loras = init_static_loras


_INIT_STATIC_LORAS = OpenAIServingModels.init_static_loras
"""What vLLM calls once, when its server's table of adapters and its engine are there."""


def _variable(name: str, read: Callable[[str], T], usual: T, allowed: str) -> T:
    if name not in os.environ:
        return usual
    try:
        return read(os.environ[name])
    except (ValueError, KeyError):
        raise ValueError(f"{name} is {os.environ[name]!r}; it must be {allowed}") from None


def _positive(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError
    return number
