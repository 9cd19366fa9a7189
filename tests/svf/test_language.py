"""Of a model that sees, the language layers alone are adapted; their names are mapped, and so are experts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from training.setting import adapted
from visual import LIMITS, picture, save_language_model

from t2.config.rows import SeeingBase
from t2.stages.basis import adapted_weights
from t2.stages.spectrum import linear_weights
from t2.svf import BasisCache, Expert, SvfConfig, attach, build_cache, load_expert, save_expert
from t2.svf.identity import Origin
from t2.svf.language import (
    language_part,
    load_onto,
    name_in_memory,
    named_here,
    names_alone,
    outside_language,
)
from t2.svf.pretrained import empty_model, load_config, load_model, load_processor, sees
from t2.svf.targets import targeted_modules

ROOT = Path(__file__).parents[2]
ADAPT = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
KINDS = ["llava_folder", "llava_next_folder"]


def base(folder: Path, **changes: Any) -> SeeingBase:
    row = yaml.safe_load((ROOT / "params.yaml").read_text())["bases"]["main"]
    return SeeingBase(**{**row, "path": str(folder), "adapt": ADAPT, "vision": LIMITS, **changes})


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_the_language_part_is_found_and_text_has_none(folder: Path, tiny_folder: Path) -> None:
    assert sees(load_config(folder)) and not sees(load_config(tiny_folder))
    for model in (load_model(folder), empty_model(load_config(folder))):
        assert language_part(model) == "model.language_model"
    text = empty_model(load_config(tiny_folder))
    assert language_part(text) is None and outside_language(text, ["lm_head"]) == ["lm_head"]
    assert name_in_memory(text)("model.layers.0") == "model.layers.0" and names_alone(text, ["model.x"]) == {}


@pytest.mark.parametrize(("layers", "count"), [("all", 4), ("half", 2), ([1], 1)])
def test_weights_on_disk_bear_the_names_in_memory_and_none_is_the_towers(
    layers: Any, count: int, folder: Path, tmp_path: Path
) -> None:
    weights = adapted_weights(base(folder, layers=layers), "cpu")
    model: Any = load_model(folder)
    assert len(weights) == count * len(ADAPT)
    for name, weight in weights.items():
        assert name.startswith("model.language_model.layers.")
        assert torch.equal(weight, model.get_submodule(name).weight)


def test_spectra_are_of_the_language_layers(folder: Path) -> None:
    names = [name for name, _ in linear_weights(base(folder))]
    assert len(names) == 28 and all(name.startswith("model.language_model.layers.") for name in names)


@pytest.mark.parametrize("excluded", [None, ["3.mlp.up_proj", "0.mlp.up_proj"], r".*\.[03]\.mlp\.up_proj"])
def test_what_is_left_out_besides_stays_out(excluded: Any, llava_folder: Path) -> None:
    model = load_model(llava_folder)
    config = SvfConfig(target_modules=ADAPT, exclude_modules=outside_language(model, excluded))
    found = targeted_modules(model, config)
    assert all(name.startswith("model.language_model.") for name in found)
    assert len(found) == 28 - (0 if excluded is None else 2)


@pytest.mark.parametrize(("method", "layers"), [("svf", "all"), ("svf", "half"), ("lora", "half"), ("ia3", "all")])
def test_adapters_of_any_method_reach_the_language_layers_alone(
    method: str, layers: Any, folder: Path, tmp_path: Path
) -> None:
    model = adapted(load_model(folder), method, layers=layers)
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    assert trained and all(".language_model.layers." in name for name in trained)
    where = {int(name.split(".layers.")[1].split(".")[0]) for name in trained}
    assert where == ({2, 3} if layers == "half" else {0, 1, 2, 3})
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(load_model(folder), tmp_path)
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in model.named_parameters()}


def test_training_what_sees_is_refused(llava_folder: Path) -> None:
    model = load_model(llava_folder)
    with pytest.raises(ValueError, match=r"multi_modal_projector.* would be trained .* what sees stays as it is"):
        adapted(model, "lora", modules_to_save=["multi_modal_projector"])


def test_z_of_one_is_the_bare_model_bit_for_bit(folder: Path) -> None:
    processor, bare = load_processor(folder), load_model(folder).eval()
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "How many apples?"}]}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    inputs = processor(text=text, images=[picture(1)], return_tensors="pt")
    with torch.no_grad():
        expected = bare(**inputs).logits
        config = SvfConfig(target_modules=ADAPT, exclude_modules=outside_language(bare))
        svf: Any = attach(bare, config)
        assert len(svf.svf_layers()) == 28
        assert torch.equal(svf(**inputs).logits, expected)
        ones = {name: torch.ones(1, len(sigma)) for name, sigma in svf.sigmas().items()}
        with svf.per_sample(ones, [0]):
            assert torch.equal(svf(**inputs).logits, expected)
        with svf.per_sample({name: table * 1.5 for name, table in ones.items()}, [0]):
            assert not torch.allclose(svf(**inputs).logits, expected)


@pytest.fixture
def caches(llava_folder: Path, tmp_path: Path) -> tuple[BasisCache, BasisCache, Path]:
    """The basis of the base that sees, that of its language model alone, and the latter's folder."""
    text = tmp_path / "text"
    save_language_model(llava_folder, text)
    seeing = adapted_weights(base(llava_folder), "cpu")
    alone = names_alone(empty_model(load_config(llava_folder)), seeing)
    return (
        build_cache(seeing, tmp_path / "seeing-basis", alone=alone),
        build_cache(adapted_weights(base(text), "cpu"), tmp_path / "text-basis"),
        text,
    )


def save_random(cache: BasisCache, folder: Path, seed: int = 0) -> Expert:
    generator = torch.Generator().manual_seed(seed)
    names = [name for name in cache if int(name.split("layers.")[1].split(".")[0]) >= 2]  # of half of the layers
    z = {name: 1 + 0.3 * torch.randn(cache.rank(name), generator=generator) for name in names}
    matrices = {name: cache.matrix(name) for name in names}
    expert = Expert(z, {"base_model_name_or_path": "text", "task": "math", **Origin.of(matrices).noted()})
    save_expert(expert, folder)
    return expert


def test_an_expert_of_the_language_model_alone_runs_where_it_also_sees(
    caches: tuple[BasisCache, BasisCache, Path], llava_folder: Path, tmp_path: Path
) -> None:
    seeing, alone, text = caches
    saved = save_random(alone, tmp_path / "expert")
    found = load_onto(tmp_path / "expert", seeing)
    assert set(found.z) == {name.replace("model.", "model.language_model.", 1) for name in saved.z}
    ids = torch.tensor([[1, 9, 30, 31, 32]])
    logits = []
    for path, cache, expert in ((text, alone, saved), (llava_folder, seeing, found)):
        model = load_model(path, dtype=torch.float32)
        exclude = outside_language(model)
        config = SvfConfig(target_modules=ADAPT, exclude_modules=exclude, basis=str(cache.folder))
        svf: Any = attach(model, config)
        with torch.no_grad(), svf.per_sample({name: z[None] for name, z in expert.z.items()}, [0]):
            logits.append(svf(input_ids=ids).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=0)


def test_an_expert_of_other_singular_vectors_is_refused_unless_it_is_copied(
    caches: tuple[BasisCache, BasisCache, Path], tmp_path: Path
) -> None:
    seeing, alone, _ = caches
    expert = save_random(alone, tmp_path / "expert")
    config = json.loads((tmp_path / "expert" / "adapter_config.json").read_text())
    config |= {"basis_fingerprint": "0" * 64, "rounded_fingerprint": "0" * 64}
    (tmp_path / "expert" / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"made for other base weights .* make an adapter `of` it by .* `copied`"):
        load_onto(tmp_path / "expert", seeing)
    z = named_here(load_expert(tmp_path / "expert").z, seeing)
    assert torch.equal(torch.cat(list(z.values())), torch.cat(list(expert.z.values())))
    assert all(name in seeing.matrices for name in z)


def test_experts_of_the_base_that_sees_and_of_bases_of_text_are_checked_as_ever(
    caches: tuple[BasisCache, BasisCache, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seeing, alone, _ = caches
    for name, cache in (("seeing", seeing), ("alone", alone)):
        expert = save_random(cache, tmp_path / name)
        with caplog.at_level(logging.WARNING):
            assert load_onto(tmp_path / name, cache).z.keys() == expert.z.keys()
    assert not caplog.records
    with pytest.raises(ValueError, match=r"scales model\.language_model\.\S+, which the base model does not"):
        load_onto(tmp_path / "seeing", alone)
    assert "alone" not in (tmp_path / "text-basis" / "index.json").read_text()
