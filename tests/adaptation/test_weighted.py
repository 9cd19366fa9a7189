"""A mix of LoRA adapters answers as the model does whose weights were summed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from t2 import config
from t2.adaptation.weighted import WeightedAdapters, coordinates
from t2.config.rows import Base
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.svf import mix_population

PROMPTS = ["What is 3 plus 4?", "Write a program.", "Which is larger?"]
SAMPLING = Sampling(6)
ALPHAS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.4, -0.4], [0.5, 0.5]])


@pytest.fixture
def base(tiny_folder: Path) -> Base:
    row = config.load(Path(__file__).parents[2] / "params.yaml").bases["main"]
    return row.model_copy(update={"path": str(tiny_folder)})


@pytest.fixture
def folders(base: Base, tmp_path: Path) -> list[Path]:
    """Two adapters that change the model's replies."""
    for seed in range(2):
        model, _ = load_base(base.path, base.dtype)
        torch.manual_seed(seed)
        settings = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        get_peft_model(model, settings).save_pretrained(str(tmp_path / str(seed)))
    return [tmp_path / "0", tmp_path / "1"]


def summed(base: Base, folders: list[Path], weights: list[float]) -> HfEngine:
    """The same by PEFT's own merging of each adapter into the weights."""
    model, tokenizer = load_base(base.path, base.dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    total = {name: value.clone() for name, value in before.items()}
    for folder, weight in zip(folders, weights, strict=True):
        alone, _ = load_base(base.path, base.dtype)
        merged = PeftModel.from_pretrained(alone, str(folder)).merge_and_unload().state_dict()
        for name, value in total.items():
            value += weight * (merged[name] - before[name])
    model.load_state_dict(total)
    return HfEngine(model, tokenizer, batch_size=4)


def test_each_prompt_is_answered_under_its_own_sum(base: Base, folders: list[Path]) -> None:
    mixed = WeightedAdapters(base, folders, device="cpu", batch=4)
    tables = mix_population(list(coordinates(["a", "b"]).values()), ALPHAS).tables
    prompts, rows = PROMPTS * 5, [row for row in (2, 0, -1, 1, 3) for _ in PROMPTS]
    replies = mixed.generate(prompts, SAMPLING, experts=tables, rows=rows)
    read = mixed.read(prompts, ["seven"] * len(prompts), experts=tables, rows=rows)
    for place, row in enumerate((2, 0, -1, 1, 3)):
        weights = [0.0, 0.0] if row < 0 else ALPHAS[row].tolist()
        alone = summed(base, folders, weights)
        own = slice(3 * place, 3 * place + 3)
        for here, there in zip(replies[own], alone.generate(PROMPTS, SAMPLING), strict=True):
            assert here.tokens == there.tokens
            assert here.logprobs == pytest.approx(there.logprobs, abs=1e-3)
        for logprobs, expected in zip(read[own], alone.read(PROMPTS, ["seven"] * 3), strict=True):
            assert logprobs == pytest.approx(expected, abs=1e-3)
    assert len({reply.logprobs for reply in replies}) == len(replies)


def test_a_mix_without_weights_is_refused(base: Base, folders: list[Path]) -> None:
    with pytest.raises(ValueError, match="needs their weights"):
        WeightedAdapters(base, folders, device="cpu", batch=4).generate(PROMPTS, SAMPLING)


def test_what_does_not_add_up_is_refused(base: Base, folders: list[Path], tmp_path: Path) -> None:
    model, _ = load_base(base.path, base.dtype)
    scaling = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
    get_peft_model(model, scaling).save_pretrained(str(tmp_path / "ia3"))
    with pytest.raises(ValueError, match="no LoRA adapter"):
        WeightedAdapters(base, [tmp_path / "ia3"], device="cpu", batch=4)
    file = folders[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file(dict(list(tensors.items())[1:]), file)
    with pytest.raises(ValueError, match="does not fit"):
        WeightedAdapters(base, folders, device="cpu", batch=4)
