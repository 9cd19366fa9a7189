"""What a model sees in a batch is what its own processor and forward pass show it alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
import yaml
from torch import Tensor
from visual import CHAT_TEMPLATE, LIMITS, picture

from t2 import config
from t2.adaptation.in_context import with_shots
from t2.config.rows import SeeingBase
from t2.engine import chat
from t2.engine.attention import GROUPED_SDPA
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine, load_base
from t2.engine.select import load, svf_engine, vision
from t2.svf.pretrained import load_processor
from t2.tasks.images import ImageError
from t2.tasks.item import Item
from t2.tasks.prompt import Image, Message, Prompt, shown

ROOT = Path(__file__).parents[2]
KINDS = ["llava_folder", "llava_next_folder"]
SIZES = {
    "llava_folder": [(32, 32)] * 6,
    "llava_next_folder": [(32, 32), (60, 20), (20, 60), (64, 64), (100, 90), (9, 9)],
}
PARTS = (  # as LLaVA's own, which writes nothing of plain text
    "{% for message in messages %}{{ '<' + message['role'] + '>' }}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '<eos>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
TEXT_ALONE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def base(folder: Path) -> SeeingBase:
    row = yaml.safe_load((ROOT / "params.yaml").read_text())["bases"]["main"]
    return SeeingBase(**{**row, "path": str(folder), "vision": LIMITS})


def engine_of(folder: Path) -> Any:
    settings = config.load(ROOT / "params.yaml").engine
    return svf_engine(base(folder), settings, basis=None, device="cpu", batch=5)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(kind: str, request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(kind)
    return found


@pytest.fixture
def engine(folder: Path) -> Any:
    return engine_of(folder)


def asks(path: Path, text: str, sizes: Sequence[tuple[int, int]], first: int = 0) -> Prompt:
    """A prompt that shows so many images."""
    images = []
    for n, size in enumerate(sizes, start=first):
        picture(n, size).save(path / f"{n}.png")
        images.append(Image(path / f"{n}.png", item=f"item-{n}"))
    return (Message("user", text, tuple(images)),)


@pytest.fixture
def prompts(kind: str, tmp_path: Path) -> list[Prompt]:
    """With an image, without one, with two, and with an opening."""
    sizes = SIZES[kind]
    found = [asks(tmp_path, "How many apples are on it?", [size], n) for n, size in enumerate(sizes)]
    found += ["Tom has 3 apples.", asks(tmp_path, "Tom has these.", sizes[:2], 10), "apples"]
    found.append((Message("system", "Tom"), *asks(tmp_path, "more", sizes[1:2], 20), Message("assistant", "Tom has")))
    return found


def random_tables(engine: Any, experts: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: 1 + 0.5 * torch.randn(experts, len(sigma), generator=generator)
        for name, sigma in engine.model.sigmas().items()
    }


def own_inputs(folder: Path, prompt: Prompt) -> dict[str, Tensor]:
    """What the model's processor makes of a prompt."""
    processor = load_processor(folder)
    turns, pictured = [Message("user", prompt)] if isinstance(prompt, str) else prompt, {"type": "image"}
    chats = [
        {
            "role": turn.role,
            "content": [*[pictured] * len(turn.images), {"type": "text", "text": turn.content}],
        }
        for turn in turns
    ]
    opened = turns[-1].role == "assistant"
    text = processor.apply_chat_template(chats, add_generation_prompt=not opened, continue_final_message=opened)
    pictures = [PIL.Image.open(image.path).convert("RGB") for image in shown(prompt)]
    return dict(processor(text=text, images=pictures or None, return_tensors="pt", add_special_tokens=False))


def test_prompts_are_encoded_and_answered_as_processor_and_model_do_alone(
    engine: Any, folder: Path, prompts: list[Prompt]
) -> None:
    replies = engine.generate(prompts, Sampling(12), experts={}, rows=[-1] * len(prompts))
    assert len({len(ids) for ids in engine.encode(prompts)}) > 3
    for prompt, ids, reply in zip(prompts, engine.encode(prompts), replies, strict=True):
        inputs = own_inputs(folder, prompt)
        assert inputs["input_ids"].tolist() == [ids] and reply.prompt_tokens == len(ids)
        with engine.model.disable_adapter():
            alone = engine.model.base_model.model.generate(**inputs, max_new_tokens=12, do_sample=False)
        assert alone[0, len(ids) :].tolist() == list(reply.tokens)
    assert len({reply.tokens for reply in replies}) > len(prompts) // 2
    attention = engine.model.base_model.model.config
    assert (attention._attn_implementation, attention.text_config._attn_implementation) == ("sdpa", GROUPED_SDPA)


def test_images_decide_about_replies(engine: Any, kind: str, tmp_path: Path) -> None:
    asked = [asks(tmp_path, "How many?", [SIZES[kind][0]], n) for n in range(4)]
    likely = torch.tensor(engine.score(asked, ["1", "2", "3"], experts={}, rows=[-1] * 4))
    assert torch.pdist(likely).min() > 1e-2


def test_a_batch_of_images_and_text_under_mixed_experts_is_each_alone(engine: Any, prompts: list[Prompt]) -> None:
    tables, rows = random_tables(engine, 3), [n % 4 - 1 for n in range(len(prompts))]
    replies = ["Tom has 7 apples", "apples", ""] * 4
    together = engine.generate(prompts, Sampling(12), experts=tables, rows=rows)
    scores = engine.score(prompts, ["Tom has", "apples 3", "3"], experts=tables, rows=rows)
    read = engine.read(prompts, replies[: len(prompts)], experts=tables, rows=rows)
    engine.batch_size = 1
    for place, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
        one = {"experts": tables, "rows": [row]}
        (alone,) = engine.generate([prompt], Sampling(12), **one)
        assert alone.tokens == together[place].tokens
        assert alone.logprobs == pytest.approx(together[place].logprobs, abs=1e-3)
        assert engine.score([prompt], ["Tom has", "apples 3", "3"], **one)[0] == pytest.approx(scores[place], abs=1e-3)
        assert engine.read([prompt], [replies[place]], **one)[0] == pytest.approx(read[place], abs=1e-3)


def test_likelihoods_are_those_of_the_models_own_pass(engine: Any, folder: Path, prompts: list[Prompt]) -> None:
    replies = ["Tom has 7"] * len(prompts)
    found = engine.read(prompts, replies, experts={}, rows=[-1] * len(prompts))
    for prompt, logprobs in zip(prompts, found, strict=True):
        inputs = own_inputs(folder, prompt)
        reply = torch.tensor([chat.encode_reply(engine.tokenizer, "Tom has 7")])
        size = inputs["input_ids"].shape[1]
        inputs |= {"input_ids": torch.cat([inputs["input_ids"], reply], 1)}
        inputs.pop("attention_mask")
        with torch.no_grad(), engine.model.disable_adapter():
            logits = engine.model.base_model.model(**inputs).logits[0, size - 1 : -1]
        expected = logits.log_softmax(1).gather(1, reply.T)[:, 0]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-3, rtol=0)


def looks(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts, from now on, the passes through what sees."""
    counted: list[int] = []
    model = engine.model.base_model.model
    inner = model.get_image_features
    monkeypatch.setattr(model, "get_image_features", lambda **given: (counted.append(1), inner(**given))[1])
    return counted


def test_an_image_is_looked_at_once_and_memory_is_bounded(
    folder: Path, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, bare = engine_of(folder), [-1] * len(prompts)
    counted = looks(engine, monkeypatch)
    expected = engine.generate(prompts, Sampling(6), experts={}, rows=bare)
    for _ in range(3):
        assert engine.generate(prompts, Sampling(6), experts={}, rows=bare) == expected
        engine.score(prompts, ["a", "b"], experts={}, rows=bare)
    distinct = {image.path.read_bytes() for prompt in prompts for image in shown(prompt)}
    assert len(counted) == len(distinct)
    tight = engine_of(folder)
    tight.vision._limits = tight.vision._limits.model_copy(update={"features_mb": 0.001})
    counted = looks(tight, monkeypatch)
    assert tight.generate(prompts, Sampling(6), experts={}, rows=bare) == expected
    assert len(counted) > len(distinct) and len(tight.vision._seen) < 4


def test_a_reply_may_hold_the_placeholder(engine: Any, prompts: list[Prompt]) -> None:
    """A tiny model samples it; behind the prompt it is a token like any other."""
    token = engine.vision._placeholder
    ids = engine.encode(prompts[:1])[0]
    batch = torch.tensor([[*ids, token, 7, token]])
    given = engine.inputs(batch, [shown(prompts[0])])["inputs_embeds"]
    plain = engine.model.get_input_embeddings()(batch)
    assert torch.equal(given[0, -3:], plain[0, -3:]) and not torch.equal(given, plain)


def test_shots_with_images_stand_in_front(engine: Any, kind: str, tmp_path: Path) -> None:
    sizes = SIZES[kind]
    shots = [Item(f"shot-{n}", asks(tmp_path, f"How {n}?", sizes[:1], n), "3", reply="3") for n in (1, 2)]
    prompt = with_shots(asks(tmp_path, "How many?", sizes[:1], 3), shots)
    assert [image.path.stem for image in shown(prompt)] == ["1", "2", "3"]
    placeholder = engine.vision._placeholder
    (ids,) = engine.encode([prompt])
    (one,) = engine.encode([asks(tmp_path, "How many?", sizes[:1], 3)])
    assert ids.count(placeholder) == 3 * one.count(placeholder)


# What is refused, with the item's name


@pytest.mark.parametrize("text", ["What is <image>?", "<image><image>"])
def test_a_placeholder_in_the_question_is_refused_with_the_item(
    text: str, engine: Any, kind: str, tmp_path: Path
) -> None:
    prompt = asks(tmp_path, text, SIZES[kind][:1])
    with pytest.raises(ValueError, match=r"^item item-0, image .*0\.png: [23] placeholders \(<image>\) for 1 image"):
        engine.encode(["apples", prompt])
    with pytest.raises(ValueError, match=r"^a prompt that shows nothing \('What is <image>\?'\): 1 placeholders"):
        engine.encode(["What is <image>?"])


def test_a_template_that_leaves_images_out_is_refused(engine: Any, kind: str, tmp_path: Path) -> None:
    engine.tokenizer.chat_template = "{% for message in messages %}{{ message['role'] }}{% endfor %}"
    with pytest.raises(ValueError, match=r"item item-0, .*: 0 placeholders .* give the base a chat template"):
        engine.encode([asks(tmp_path, "How many?", SIZES[kind][:1])])


def test_a_model_of_text_is_shown_nothing(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    engine = HfEngine(tiny_model, tiny_tokenizer, batch_size=4)
    with pytest.raises(ValueError, match=r"item item-0, image .*: shown to a model that reads text alone; .* `vision`"):
        engine.generate(["apples", asks(tmp_path, "How many?", [(32, 32)])], Sampling(3))


def test_a_base_of_text_has_no_vision(tiny_folder: Path) -> None:
    with pytest.raises(ValueError, match="is a model of text; take `vision` out of its row"):
        engine_of(tiny_folder)


def test_a_bad_image_is_named_and_the_engine_goes_on(engine: Any, kind: str, tmp_path: Path) -> None:
    good, bad = (asks(tmp_path, "How many?", SIZES[kind][:1], n) for n in (1, 2))
    (before,) = engine.generate([good], Sampling(4), experts={}, rows=[-1])
    (tmp_path / "2.png").write_text("no image")
    with pytest.raises(ImageError, match=r"^item item-2, image .*2\.png: no image of an allowed format"):
        engine.generate([good, bad], Sampling(4), experts={}, rows=[-1] * 2)
    assert engine.generate([good], Sampling(4), experts={}, rows=[-1]) == [before]


def test_a_processor_that_counts_otherwise_than_the_model_is_refused(llava_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(llava_folder, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps({**settings, "num_additional_image_tokens": 2}))
    with pytest.raises(ValueError, match=r"writes 5 placeholders for an image of which the model has 4 features"):
        engine_of(tmp_path)


def test_a_model_that_makes_more_of_an_image_is_refused(llava_folder: Path) -> None:
    model, _ = load(base(llava_folder), "cpu")
    inner = model.forward

    def deeper(*args: Any, pixel_values: Tensor | None = None, **given: Any) -> Any:
        made = inner(*args, pixel_values=pixel_values, **given)
        if pixel_values is not None:
            made.logits = made.logits.roll(1, -1)
        return made

    model.forward = deeper
    with pytest.raises(ValueError, match="makes more of an image than features in the place of its placeholders"):
        vision(base(llava_folder), model)


# Chat templates


def test_templates_of_parts_and_of_text_write_the_same_text(llava_folder: Path, prompts: list[Prompt]) -> None:
    engine = engine_of(llava_folder)
    tokenizer = engine.tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE.replace("{{ '<bos>' }}", "")
    prompts = [prompt for prompt in prompts if not shown(prompt)]
    expected = engine.encode(prompts)
    end = chat.end_of_turn(tokenizer)
    tokenizer.chat_template = PARTS
    assert engine.encode(prompts) == expected and chat.end_of_turn(tokenizer) == end == tokenizer.eos_token_id
    assert chat.encoding(tokenizer)


def test_a_folder_whose_processor_alone_has_the_template_is_read(llava_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(llava_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "chat_template.jinja").rename(tmp_path / "chat_template.json")
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    assert load_base(tmp_path, "float32")[1].chat_template == CHAT_TEMPLATE
