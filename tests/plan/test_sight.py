"""What the plan says of images, against the processors' own counts and real runs of small models that see."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from live_bytes import Live
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    PreTrainedTokenizerFast,
)
from visual import LIMITS, picture, seeing_tokenizer

from t2 import cli, profiles
from t2.config.rows import Base, Params, SeeingBase
from t2.plan import PlanError, make_plan
from t2.plan.pipeline import asked_by
from t2.plan.render import render
from t2.plan.shapes import read_shapes
from t2.plan.sight import Sight, empty_seeing, largest_image, look, read_sight
from t2.svf.pretrained import load_processor

PROFILE = "llava-next-8b"
SIZES = [(32, 32), (20, 60), (60, 20), (64, 64), (90, 100), (9, 9), (64, 32), (32, 64), (300, 10), (63, 65)]
"""Heights and widths."""


@cache
def profile() -> Params:
    return profiles.load(PROFILE)


def base(path: Any, **changes: Any) -> SeeingBase:
    """The profile's base with other weights."""
    row = profile().bases["main"].model_dump()
    return SeeingBase(**{**row, "path": str(path), "revision": None, "vision": LIMITS, **changes})


def sight_of(row: Base) -> Sight:
    found = read_sight(row)
    assert found is not None
    return found


def with_base(params: Params, row: Base) -> Params:
    return params.model_copy(update={"bases": {"main": row}})


# Parameters


def test_the_parts_of_llava_next_8b_are_the_published_ones() -> None:
    row = profile().bases["main"]
    shapes, sight = read_shapes(row), sight_of(row)
    # CLIP ViT-L/14 at 336 pixels, without what it has for text; two layers with biases; a token that ends rows.
    assert (sight.tower, sight.projector) == (303_507_456, 1024 * 4096 + 4096**2 + 2 * 4096 + 4096)
    # Llama 3 8B with 64 more tokens, of which an image's is one.
    assert shapes.parameters - sight.tower - sight.projector == 8_030_261_248 + 2 * 64 * 4096
    assert round(shapes.parameters / 1e9, 2) == 8.36
    # The sizes of the four files of weights, as the hub prints them.
    assert shapes.weight_bytes / 1e9 == pytest.approx(4.96 + 4.92 + 5.00 + 1.84, abs=0.02)


def test_adapted_matrices_are_those_of_the_language_part_alone() -> None:
    plan = make_plan(profile())
    shapes = plan.main.shapes
    names = [matrix.name for matrix in (*shapes.linears, *shapes.adapted)]
    names += [matrix.name for adapter in plan.main.adapters.values() for matrix in adapter.targets]
    assert all(name.startswith("model.language_model.layers.") for name in names)
    # Half of the layers, as of Llama 3 8B: 557,056 in all of them.
    assert plan.main.adapters["svf"].parameters == 557_056 // 2
    assert len(shapes.adapted) == 5 * 16 and len(shapes.linears) == 7 * 32


@pytest.mark.parametrize("kind", ["llava_folder", "llava_next_folder"])
def test_the_parts_of_a_small_model_are_those_that_it_loads(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    model: Any = AutoModelForImageTextToText.from_pretrained(folder)
    row = base(folder, dtype="float32")
    shapes, sight = read_shapes(row), sight_of(row)
    assert shapes.source == f"{folder}/config.json"
    assert shapes.parameters == model.num_parameters()
    assert sight.tower == model.model.vision_tower.num_parameters()
    newline = model.model.image_newline.numel() if kind == "llava_next_folder" else 0
    projector = sum(parameter.numel() for parameter in model.model.multi_modal_projector.parameters())
    assert sight.projector == projector + newline


# Tokens


@pytest.fixture(scope="module")
def published(tiny_tokenizer: PreTrainedTokenizerFast) -> LlavaNextProcessor:
    """LLaVA-NeXT's processor with the settings that it is published with, but for a small tokenizer."""
    settings = empty_seeing(profile().bases["main"]).config
    side = settings.vision_config.image_size
    return LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil(
            image_grid_pinpoints=settings.image_grid_pinpoints,
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
        ),
        tokenizer=seeing_tokenizer(tiny_tokenizer),
        patch_size=settings.vision_config.patch_size,
        vision_feature_select_strategy=settings.vision_feature_select_strategy,
        num_additional_image_tokens=1,
    )


def written(processor: Any, height: int, width: int) -> int:
    """How many placeholders a processor writes for an image."""
    given = processor(text="<image>", images=[picture(1, (width, height))], return_tensors="pt")
    return int((given["input_ids"] == processor.image_token_id).sum())


def test_images_of_llava_next_8b_have_the_tokens_that_the_processor_writes(published: LlavaNextProcessor) -> None:
    model = empty_seeing(profile().bases["main"])
    # COCO's usual size, a tall one of TextVQA's, and the largest.
    found = {size: look(model, *size).tokens for size in [(480, 640), (1024, 683), (672, 672)]}
    assert found == {size: written(published, *size) for size in found}
    assert found[480, 640] == 2340 and found[672, 672] == 2928


def test_no_image_has_more_tokens_than_the_largest(published: LlavaNextProcessor) -> None:
    settings = empty_seeing(profile().bases["main"]).config
    sides = [1, 9, 100, 335, 336, 337, 500, 671, 672, 673, 1000, 1008, 1009, 3000]
    counts = published._get_num_multimodal_tokens([(high, wide) for high in sides for wide in sides])
    assert largest_image(settings) == (672, 672) and max(counts.num_image_tokens) == 2928


@pytest.mark.parametrize("kind", ["llava_folder", "llava_next_folder"])
def test_images_of_small_models_have_the_tokens_that_their_processors_write(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(kind)
    row, processor = base(folder, dtype="float32"), load_processor(folder)
    model = empty_seeing(row)
    sizes = SIZES if kind == "llava_next_folder" else [(32, 32)]  # whose processor is set to resize nothing
    found = [look(model, *size).tokens for size in sizes]
    assert found == [written(processor, *size) for size in sizes]
    assert max(found) == sight_of(row).largest.tokens
    assert len(set(found)) > 4 or kind == "llava_folder"


# Looking


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("eye", "hidden"),
    [({}, 128), ({"num_hidden_layers": 12}, 128), ({"intermediate_size": 512}, 128), ({}, 512)],
)
def test_operations_and_memory_of_a_look_are_those_of_a_real_one(
    tmp_path: Path, dtype: str, eye: dict[str, int], hidden: int
) -> None:
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 6, "num_attention_heads": 4, **eye}
    settings = LlavaNextConfig(
        vision_config=CLIPVisionConfig(image_size=64, patch_size=8, **tower),
        text_config=LlamaConfig(vocab_size=61, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=4),
        image_token_index=60,
        image_grid_pinpoints=[[64, 128], [128, 64], [128, 128]],
    )
    settings.save_pretrained(tmp_path)
    sight = sight_of(base(tmp_path, dtype=dtype))
    model: Any = LlavaNextForConditionalGeneration(settings).to(getattr(torch, dtype)).eval()
    model.set_attn_implementation("eager")  # of fused attention on CPUs, torch counts no operations
    given = {"pixel_values": torch.ones(1, 5, 3, 64, 64, dtype=model.dtype), "image_sizes": torch.tensor([[128, 128]])}
    with torch.no_grad(), FlopCounterMode(display=False) as counted:
        seen = model.get_image_features(**given, return_dict=True).pooler_output[0]
    assert sight.size == (128, 128) and sight.largest.operations == counted.get_total_flops()
    assert (sight.largest.tokens, sight.features) == (len(seen), seen.nbytes)
    model.set_attn_implementation("sdpa")
    with torch.no_grad(), Live() as live:
        model.get_image_features(**given)
    assert live.peak == pytest.approx(sight.looking, rel=0.05)


# Plans


def test_images_count_where_a_task_shows_them_and_nowhere_else() -> None:
    params = profile()
    plan = make_plan(params)
    sight = sight_of(params.bases["main"])
    shown, prompt = sight.largest.tokens, params.plan.prompt_tokens
    assert asked_by(params, plan.main, "textvqa") == (prompt + shown, 16, sight)
    assert asked_by(params, plan.main, "okvqa").prompt == prompt + shown
    assert asked_by(params, plan.main, "gsm8k") == (prompt, 512, None)
    assert asked_by(params, plan.main, "dispatch").prompt == prompt
    assert plan.tokens == prompt + shown + 16
    stages = {stage.name: stage for stage in plan.stages}
    kept = 2048 * 2**20
    seeing = {name for name, stage in stages.items() if stage.memory.get("images")}
    assert seeing == {"train@svf-vision", "train@lora-vision", "search@okvqa", "measure"}
    assert {stages[name].memory["images"] for name in seeing} == {kept}
    # Keys and values of the images' tokens alone.
    cached = params.training.generation_batch * shown * 2 * 32 * 1024 * 2
    assert stages["train@svf-vision"].total - stages["train@svf-math"].total > kept + cached
    text = render(plan)
    assert "2,928, 24 MB of features" in text and "one that has the most tokens besides" in text
    assert f"({plan.tokens} tokens)" in text


def test_a_task_that_asks_about_questions_with_images_shows_them_too() -> None:
    params = profile()
    dispatch = params.tasks["dispatch"]
    source = dispatch.source.model_copy(update={"tasks": ["gsm8k", "textvqa"]})
    tasks = {**params.tasks, "dispatch": dispatch.model_copy(update={"source": source})}
    params = params.model_copy(update={"tasks": tasks})
    stages = {stage.name: stage for stage in make_plan(params).stages}
    assert stages["train@classifier"].memory["images"] > 0


def test_a_base_of_text_has_no_column_for_images() -> None:
    plan = make_plan(profiles.load("llama3-8b"))
    assert plan.main.sight is None and "images" not in render(plan)


def test_features_that_are_kept_are_those_of_one_image_at_least(llava_next_folder: Path) -> None:
    little = base(llava_next_folder, vision={**LIMITS, "features_mb": 1})
    assert sight_of(little).kept == 2**20
    large = profile().bases["main"]
    assert isinstance(large, SeeingBase)
    narrow = large.model_copy(update={"vision": large.vision.model_copy(update={"features_mb": 1})})
    assert sight_of(narrow).kept == 2928 * 4096 * 2


@pytest.mark.parametrize("kind", ["llava_folder", "llava_next_folder"])
def test_the_command_plans_a_folder_that_sees(
    kind: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = request.getfixturevalue(kind)
    params = with_base(profile(), base(folder, files=str(folder)))
    (tmp_path / "params.yaml").write_text(json.dumps(params.model_dump()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["t2", "plan"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and f"shapes from {folder}/config.json" in shown
    size = {"llava_folder": "32 × 32 pixels: 4,", "llava_next_folder": "64 × 64 pixels: 24,"}[kind]
    assert size in shown and "train@svf-vision" in shown


# What cannot be planned


def test_a_model_of_text_in_a_row_that_sees_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(PlanError, match=r"config\.json describes a llama, of which .* llava and llava_next; name such"):
        make_plan(with_base(profile(), base(tiny_folder)))


def test_a_kind_of_model_whose_images_are_not_known_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    with pytest.raises(PlanError, match=r"describes a qwen2_vl.*take `vision` out of the row of"):
        read_sight(base(tmp_path))


def test_a_seeing_model_whose_configuration_is_nowhere_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(PlanError, match=r"nobody/sees is not here.*nobody--sees.json"):
        read_sight(base("nobody/sees", revision="0" * 40))


@pytest.mark.parametrize("size", [(0, 32), (32, -1)])
def test_no_image_is_less_than_a_pixel(llava_next_folder: Path, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"at least one pixel high and wide, got {size[0]} × {size[1]}"):
        look(empty_seeing(base(llava_next_folder)), *size)
