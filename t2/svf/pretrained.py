"""What transformers and PEFT load from a folder or the hub, in one place: it is data, and none of its code is run.

Where they are not told, transformers asks on standard input whether to run a model's own code, and ``yes`` in a pipe
answers. Files of a local folder are looked at first, so that a damaged one is named.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from t2.files import read_json
from t2.svf.experts import load_expert
from t2.svf.tensor_files import open_tensors, read_tensors

_DATA_ONLY: dict[str, Any] = {"trust_remote_code": False}


def load_config(model: str | Path, revision: str | None = None) -> PreTrainedConfig:
    """The configuration of a model.

    Args:
        model: A local folder, or a Hugging Face id.
        revision: The commit of a Hugging Face id.

    Raises:
        OSError: There is none.
        ValueError: It needs code of its own, or is damaged.
    """
    _check_objects(model, "config.json")
    with _refusing_code(model):
        config: PreTrainedConfig = AutoConfig.from_pretrained(model, revision=revision, **_DATA_ONLY)
    return config


def load_generation_config(folder: Path) -> GenerationConfig | None:
    """How a model in a folder generates, where it says so."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return None
    read_json(file)
    return GenerationConfig.from_pretrained(folder)


def load_tokenizer(model: str | Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model; arguments and errors as :func:`load_config`."""
    _check_objects(model, "tokenizer*.json", "special_tokens_map.json", "added_tokens.json")
    with _refusing_code(model):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model, revision=revision, **_DATA_ONLY)
    return tokenizer


def load_processor(model: str | Path, revision: str | None = None) -> Any:
    """What makes inputs of texts and images for a model that sees; arguments and errors as :func:`load_config`."""
    from transformers import AutoProcessor  # brings image processing, which models of text need not wait for

    _check_objects(model, "*processor_config.json", "tokenizer*.json")
    with _refusing_code(model):
        return AutoProcessor.from_pretrained(model, revision=revision, **_DATA_ONLY)


def sees(config: PreTrainedConfig) -> bool:
    """Whether a model of a configuration is shown images beside its text."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING


def load_model(model: str | Path, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """A language model, which may see, with its weights, from safetensors files only; a pickle is not read.

    Args:
        model: A local folder, or a Hugging Face id.
        revision: The commit of a Hugging Face id.
        **options: For ``from_pretrained``, such as ``dtype``.

    Raises:
        OSError: There is none.
        ValueError: It needs code of its own, or is damaged.
    """
    _check_objects(model, "config.json", "generation_config.json", "*.index.json")
    for path in sorted(Path(model).glob("*.safetensors")):
        with open_tensors(path):
            pass
    # A GGUF file holds its own configuration, and a model of text.
    factory = AutoModelForCausalLM if "gguf_file" in options else _factory(load_config(model, revision))
    with _refusing_code(model):
        loaded: PreTrainedModel = factory.from_pretrained(
            model, revision=revision, use_safetensors=True, **_DATA_ONLY, **options
        )
    return loaded


def empty_model(config: PreTrainedConfig, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A language model, which may see, of a configuration on the meta device: modules and shapes, no weights."""
    # Plain attention: a configuration may name a kernel of the hub, which is code.
    options = {"attn_implementation": "eager"} | ({} if dtype is None else {"dtype": dtype})
    with torch.device("meta"), _refusing_code(config.name_or_path or "the configuration"):
        model: PreTrainedModel = _factory(config).from_config(config, **_DATA_ONLY, **options)
    return model


def load_adapter(model: PreTrainedModel, folder: str | Path) -> PeftModel:
    """A model with an adapter of any PEFT method, frozen and in evaluation mode.

    Args:
        model: The base model; its targeted layers are wrapped in place.
        folder: Where the adapter lies.

    Raises:
        ValueError: It is damaged or not finite, or was made for another model.
    """
    folder = Path(folder)
    if read_json(folder / "adapter_config.json").get("peft_type") == "SVF":
        load_expert(folder)
    file = folder / "adapter_model.safetensors"
    for name, tensor in read_tensors(file).items():
        if not tensor.isfinite().all():
            raise ValueError(f"{file} holds numbers that are not finite in {name}; train or copy the adapter again")
    adapted = PeftModel.from_pretrained(model, str(folder)).eval()
    # Once more: the first time PEFT says nothing of what did not fit.
    fit = adapted.load_adapter(str(folder), adapted.active_adapter)
    if fit.missing_keys or fit.unexpected_keys:
        raise ValueError(
            f"{file} was made for another model: it lacks {fit.missing_keys[:2]} of this one's {len(fit.missing_keys)} "
            f"and holds {fit.unexpected_keys[:2]} of {len(fit.unexpected_keys)} that it has not"
        )
    return adapted


def load_adapted(folder: str | Path, **options: Any) -> PeftModel:
    """An adapter with the base model that it names (a local path is relative to the working directory).

    Args:
        folder: Where the adapter lies.
        **options: As of :func:`load_model`, for the base.
    """
    config: Any = PeftConfig.from_pretrained(str(folder))
    return load_adapter(load_model(config.base_model_name_or_path, config.revision, **options), folder)


def _factory(config: PreTrainedConfig) -> Any:
    return AutoModelForImageTextToText if sees(config) else AutoModelForCausalLM


def _check_objects(model: str | Path, *patterns: str) -> None:
    """Reads JSON files of a local folder, where they are there."""
    for pattern in patterns:
        for path in sorted(Path(model).glob(pattern)):
            read_json(path)


@contextmanager
def _refusing_code(model: str | Path) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        raise ValueError(
            f"{model} needs code of its own (auto_map in its configuration), which is never run here; use a model of "
            "an architecture that transformers has itself"
        ) from None
