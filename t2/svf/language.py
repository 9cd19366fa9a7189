"""The language part of a model that also sees: the one part that adapters reach, and what its modules are called.

In memory they are ``model.language_model.layers.0…``, in files often ``language_model.model.layers.0…``, and in the
same language model without eyes ``model.layers.0…``. A name that ends alike in the vision tower, as CLIP's ``q_proj``
does, is never meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter

from t2.svf.cache import BasisCache
from t2.svf.experts import Expert, load_expert


def language_part(model: Any) -> str | None:
    """The name of the language model within one that also sees; None: it is one of text alone.

    Args:
        model: A transformers model without adapters; it may be on the meta device.

    Raises:
        ValueError: It sees, and names no language model.
    """
    if model.config.get_text_config() is model.config:
        return None
    decoder = model.get_decoder()
    found = next((name for name, module in model.named_modules() if module is decoder and name), None)
    if found is None:
        raise ValueError(
            f"a {type(model).__name__} names no language model within it (get_decoder), which alone is adapted; use a "
            "model of text, or one built like LlavaForConditionalGeneration"
        )
    return found


def outside_language(model: Any, excluded: Iterable[str] | str | None = None) -> Any:
    """PEFT's ``exclude_modules`` that keeps an adapter within the language part; of a model of text, what is given.

    Args:
        model: As of :func:`language_part`.
        excluded: What is left out besides: names that module names equal or end in, or a regular expression.

    Returns:
        A regular expression; of a model of text, ``excluded``.
    """
    part = language_part(model)
    if part is None:
        return excluded
    elsewhere = rf"(?!{re.escape(part)}\.).*"
    if not excluded:
        return elsewhere
    more = excluded if isinstance(excluded, str) else rf"(?:.*\.)?(?:{'|'.join(map(re.escape, sorted(excluded)))})"
    return rf"{elsewhere}|{more}"


def name_in_memory(model: Any) -> Callable[[str], str]:
    """What transformers calls a tensor of a model's files once it is loaded."""
    if language_part(model) is None:
        return lambda name: name
    renamings: list[Any] = [
        transform for transform in get_model_conversion_mapping(model) if not isinstance(transform, WeightConverter)
    ]

    def renamed(name: str) -> str:
        for transform in renamings:
            name, _ = transform.rename_source_key(name)
        return name

    return renamed


def names_alone(model: Any, names: Iterable[str]) -> dict[str, str]:
    """What the language model alone calls modules of a model that also sees, by their names there; else nothing."""
    part = language_part(model)
    if part is None:
        return {}
    alone: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(model.config.get_text_config())]
    return {name: f"{alone.base_model_prefix}{name.removeprefix(part)}" for name in names}


def named_here(z: Mapping[str, Tensor], cache: BasisCache) -> dict[str, Tensor]:
    """Z of a language model alone under the names that a base which also sees has for its modules; others as they are.

    Args:
        z: By module name.
        cache: The base's.
    """
    names = {alone: name for name, (alone, _) in cache.alone.items()}
    return {names[name]: value for name, value in z.items()} if names.keys() >= z.keys() else dict(z)


def load_onto(folder: str | Path, cache: BasisCache) -> Expert:
    """An expert that is to run on the base of a basis cache, under the names of its modules.

    One of the base's own language model, trained without eyes, is one of the base too: the same weights have the same
    singular vectors.

    Args:
        folder: The adapter folder.
        cache: The base's.

    Raises:
        ValueError: As :func:`t2.svf.load_expert`; an expert of other weights is for who asks for it by name, see
            :mod:`t2.exchange.derived`.
    """
    alone = dict(cache.alone.values())
    if not alone or not alone.keys() >= (expert := load_expert(folder)).z.keys():
        return load_expert(folder, cache.matrices)
    try:
        expert.check(alone, f"the language model of the base in {cache.folder}")
    except ValueError as error:
        raise ValueError(
            f"{folder}: {error}; or, to see what it does there, make an adapter `of` it by the change `copied`"
        ) from None
    return Expert(named_here(expert.z, cache), expert.provenance)
