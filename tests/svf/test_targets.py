"""Every name of ``target_modules`` is that of layers which are adapted, or nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from torch import nn
from training.setting import adapted
from transformers import LlamaForCausalLM, MixtralConfig, PreTrainedModel, Qwen2MoeConfig

from svf.models import TARGETS, make_model
from t2 import config as settings
from t2.stages.basis import adapted_weights
from t2.svf import SvfConfig
from t2.svf.pretrained import empty_model
from t2.svf.targets import check_targets, targeted_modules

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 61,
}
CONFIGS = [SvfConfig, LoraConfig, IA3Config]


def mixture(shared: bool) -> PreTrainedModel:
    if shared:
        return empty_model(Qwen2MoeConfig(**SIZES, num_experts=4, shared_expert_intermediate_size=24))
    return empty_model(MixtralConfig(**SIZES, num_local_experts=4))


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_name_that_matches_nothing_is_refused_by_name(kind: type, model: LlamaForCausalLM) -> None:
    check_targets(model, kind(target_modules=TARGETS))
    with pytest.raises(
        ValueError, match=r"names \['qproj', 'wq'\], which match no module .* are down_proj, .*, v_proj"
    ):
        check_targets(model, kind(target_modules=[*TARGETS, "wq", "qproj"]))


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["gate_proj", "up_proj", "down_proj", "gate_up_proj", "experts.down_proj"])
def test_fused_weights_of_experts_are_named_as_such(kind: type, shared: bool, name: str) -> None:
    fused = r"fuses such weights .* model\.layers\.0\.mlp\.experts\.(gate_up|down)_proj \(4, .*, 2 of them"
    with pytest.raises(ValueError, match=rf"names '{name}', and this model {fused}"):
        check_targets(mixture(shared), kind(target_modules=["q_proj", name]))
    check_targets(mixture(shared), kind(target_modules=["q_proj"]))


def test_what_is_not_fused_can_be_named() -> None:
    config = SvfConfig(target_modules=["q_proj", "shared_expert.down_proj"])
    assert targeted_modules(mixture(shared=True), config) == [
        f"model.layers.{layer}.{name}"
        for layer in (0, 1)
        for name in ("self_attn.q_proj", "mlp.shared_expert.down_proj")
    ]


def test_a_name_must_match_in_the_layers_that_are_adapted(model: LlamaForCausalLM) -> None:
    model.model.layers[0].mlp.extra_proj = nn.Linear(3, 3)
    check_targets(model, SvfConfig(target_modules=["q_proj", "extra_proj"]))
    with pytest.raises(
        ValueError, match=r"\['extra_proj'\], which match no module of this model in the layers \[1, 2\]"
    ):
        check_targets(model, SvfConfig(target_modules=["q_proj", "extra_proj"], layers_to_transform=[1, 2]))


def test_layers_without_an_index_and_tied_ones_are_refused_before_any_work() -> None:
    with pytest.raises(ValueError, match=r"'lm_head' holds no layer index .*leave it out of target_modules"):
        get_peft_model(make_model(), SvfConfig(target_modules=["q_proj", "lm_head"]))
    model = make_model()
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(
        ValueError, match=r"layers\.0\.mlp\.up_proj shares its weight with model\.layers\.2\.mlp\.up_proj"
    ):
        get_peft_model(model, SvfConfig(target_modules=["up_proj"]))


def test_a_second_adapter_finds_the_modules_of_the_first(model: LlamaForCausalLM) -> None:
    wrapped = get_peft_model(model, SvfConfig(target_modules=["q_proj"]))
    wrapped.add_adapter("other", SvfConfig(target_modules=["q_proj", "up_proj"]))
    assert len(wrapped.svf_layers()) == 6
    with pytest.raises(ValueError, match="match no module"):
        wrapped.add_adapter("third", SvfConfig(target_modules=["q_proj", "upproj"]))


@pytest.mark.parametrize("where", ["basis", "svf", "lora"])
def test_basis_and_training_refuse_a_part_of_a_wish(where: str, tiny_folder: Path) -> None:
    wrong = ["q_proj", "upproj"]
    row = settings.load().bases["main"]
    base = row.model_copy(update={"path": str(tiny_folder), "adapt": wrong, "layers": "all"})
    model = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"names \['upproj'\], which match no module"):
        if where == "basis":
            adapted_weights(base, "cpu")
        else:
            adapted(model, where, target_modules=wrong)
