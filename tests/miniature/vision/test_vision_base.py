"""The vision tower's training, the model's files, and the bases that ship."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, LlavaForConditionalGeneration

from t2.miniature.vision import settings
from t2.miniature.vision.corpus import tower_pictures
from t2.miniature.vision.model import (
    build_model,
    build_processor,
    load_language,
    load_language_part,
    pixels_of,
    round_weights,
    save,
)
from t2.miniature.vision.pictures import IMAGE, PLACES
from t2.miniature.vision.problems import ASKED, draw
from t2.miniature.vision.tower import read_pictures, train_tower
from t2.stages.pretrain_vision import FOLDER, PROMPTS, TEXT

PARAMS = settings.load()
BASES = list(PARAMS.bases)


@pytest.fixture(scope="module", params=BASES)
def shipped(request):
    folder = FOLDER / request.param
    return folder, AutoModelForImageTextToText.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)


def chat(one):
    content = [{"type": "text", "text": one.prompt}]
    if one.posed.picture:
        content.insert(0, {"type": "image", "image": one.posed.picture.image})
    return [{"role": "user", "content": content}]


def encoded(processor, drawn):
    return processor.apply_chat_template(
        [chat(one) for one in drawn],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


def replies(model, processor, drawn):
    inputs = encoded(processor, drawn)
    tokens = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    return processor.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_tower_learns_and_learns_the_same_again():
    optimiser = PARAMS.tower.optimiser.model_copy(update={"steps": 60, "batch": 32, "threads": 1})
    tower = PARAMS.tower.model_copy(update={"pictures": 200, "optimiser": optimiser})
    params = PARAMS.model_copy(update={"tower": tower})
    pictures = tower_pictures(params)
    found = []
    for _ in range(2):
        language, tokenizer = load_language(TEXT / "base")
        model, processor = build_model(language, tokenizer, params), build_processor(tokenizer, params)
        before = read_pictures(model, processor, pictures, tower).float().mean()
        losses: list[float] = []
        train_tower(model, processor, pictures, tower, losses.append)
        assert read_pictures(model, processor, pictures, tower).float().mean() > before + 0.2
        assert len(losses) == 60 and sum(losses[-5:]) < 0.7 * sum(losses[:5])
        now = model.model.language_model.state_dict()
        assert all(torch.equal(now[name], weight) for name, weight in language.model.state_dict().items())
        found.append(model.state_dict())
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_saved_is_loaded_bit_for_bit(tmp_path):
    language, tokenizer = load_language(TEXT / "base")
    model = build_model(language, tokenizer, PARAMS)
    round_weights(model)
    save(model, build_processor(tokenizer, PARAMS), tmp_path)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert again.dtype == torch.float32
    assert all(torch.equal(again.state_dict()[name], weight) for name, weight in model.state_dict().items())


def test_a_shipped_base_loads_as_it_is_described(shipped):
    folder, model, processor = shipped
    assert isinstance(model, LlavaForConditionalGeneration) and model.dtype == torch.float32
    assert {weight.dtype for weight in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert 900_000 < model.num_parameters() < 1_100_000
    assert model.config.image_token_id == processor.tokenizer.convert_tokens_to_ids(IMAGE)
    assert "trust_remote_code" not in (folder / "config.json").read_text() + "auto_map"
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".jinja", ".safetensors"}


def test_what_ships_is_small():
    files = [path for base in BASES for path in (FOLDER / base).iterdir()]
    assert sum(path.stat().st_size for path in [*files, PROMPTS]) < 6 * 2**20


def test_a_picture_is_seen_as_it_is_and_others_in_its_size(shipped):
    _, _, processor = shipped
    picture = draw("signs", 1, 0, PARAMS.look, pool="task")[0].posed.shown.image
    (pixels,) = pixels_of(processor, [picture])
    levels = ((pixels + 1) * 127.5).round().byte().permute(1, 2, 0)
    assert levels.numpy().tobytes() == picture.tobytes()
    assert pixels_of(processor, [picture.resize((90, 50))]).shape == (1, 3, PARAMS.look.size, PARAMS.look.size)


def test_text_is_encoded_as_the_text_base_encodes_it(shipped):
    folder, _, processor = shipped
    text = AutoTokenizer.from_pretrained(TEXT / PARAMS.bases[folder.name].language)
    turns = [{"role": "user", "content": "Hello! What is 12+7?"}, {"role": "assistant", "content": "It is 19."}]
    for some, how in ((turns, {}), (turns[:1], {"add_generation_prompt": True})):
        ours, theirs = (each.apply_chat_template(some, tokenize=True, **how) for each in (processor.tokenizer, text))
        assert ours["input_ids"] == theirs["input_ids"]
    assert processor.tokenizer.encode("abc def 123") == text.encode("abc def 123")


def test_a_picture_becomes_its_image_tokens(shipped):
    _, model, processor = shipped
    inputs = encoded(processor, draw("signs", 3, 0, PARAMS.look, pool="task"))
    assert (inputs["input_ids"] == model.config.image_token_id).sum(1).tolist() == [PLACES] * 3
    assert inputs["pixel_values"].shape == (3, 3, PARAMS.look.size, PARAMS.look.size)


def test_replies_have_the_form_that_rewards_read(shipped):
    _, model, processor = shipped
    for family in ASKED:
        said = replies(model, processor, draw(family, 20, 0, PARAMS.look, pool="task"))
        assert sum("he answer is " in reply and reply.endswith(".") for reply in said) >= 18


def test_careful_prompts_about_pictures_are_answered(shipped):
    _, model, processor = shipped
    for family, least in (("signs", 0.7), ("knowledge", 0.5)):
        drawn = [one for one in draw(family, 200, 0, PARAMS.look, pool="task") if one.register.carelessness < 0.2]
        said = replies(model, processor, drawn)
        right = [f" {one.posed.problem.answer}." in reply for one, reply in zip(drawn, said, strict=True)]
        assert sum(right) / len(right) > least


def test_the_language_part_is_a_text_model_of_its_own(shipped):
    folder, model, processor = shipped
    language = load_language_part(folder)
    inputs = processor.tokenizer(["<|user|>Hello! Find 2*3 + 4*5.<|assistant|>"], return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(language(**inputs).logits, model(**inputs).logits)
    assert language.config.model_type == "llama" and language.dtype == torch.float32
