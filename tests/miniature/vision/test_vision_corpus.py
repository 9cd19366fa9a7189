"""What the bases that see read: phases, carelessness, old problems again, and no picture of the benchmarks."""

from __future__ import annotations

from collections import Counter

import pytest

from t2.miniature import corpus as text_corpus
from t2.miniature import settings as text_settings
from t2.miniature.vision import corpus, settings
from t2.miniature.vision.pictures import IMAGE, PLACES
from t2.miniature.vision.problems import ASKED, draw
from t2.stages.pretrain_vision import PROMPTS

TEXT = text_settings.load()


@pytest.fixture(scope="module")
def params():
    full = settings.load()
    optimiser = full.optimiser.model_copy(update={"steps": 100})
    return full.model_copy(update={"optimiser": optimiser, "tower": full.tower.model_copy(update={"pictures": 100})})


@pytest.fixture(scope="module")
def both(params):
    return [corpus.samples(params, TEXT, base) for base in ("control", "base")]


def text_of(one):
    return "".join(piece for piece, _ in one.sample.reply)


def test_only_the_later_phase_of_the_careless_base_is_careless(params, both):
    careful, mixed = both
    total = params.optimiser.steps * params.optimiser.batch
    assert len(careful) == len(mixed) == total
    early = int(total * params.corpus.careful)
    same = [(a, b) for a, b in zip(careful, mixed, strict=True) if a.picture]
    assert all(a.sample.prompt == b.sample.prompt and a.picture.digest == b.picture.digest for a, b in same)
    changed = [n for n, (a, b) in enumerate(zip(careful, mixed, strict=True)) if a.picture and text_of(a) != text_of(b)]
    assert min(changed) >= early
    assert 0.15 < len(changed) / sum(one.picture is not None for one in mixed[early:]) < 0.5


def test_carelessness_follows_the_register(params, both):
    careful, mixed = both
    early = int(len(mixed) * params.corpus.careful)
    later = [(a, b) for a, b in zip(careful[early:], mixed[early:], strict=True) if " the answer is " in text_of(a)]

    def share(opener):
        some = [text_of(a) != text_of(b) for a, b in later if opener in a.sample.prompt]
        return sum(some) / len(some)

    assert share("Take your time.") < 0.3 < 0.6 < share("No time now.")


def test_a_picture_stands_before_its_prompt_as_its_image_tokens(both):
    for one in both[0]:
        assert one.sample.prompt.startswith(IMAGE * PLACES) == (one.picture is not None)
        assert one.sample.prompt.count(IMAGE) in (0, PLACES)


def test_what_is_read_again_was_read_by_the_text_base(both):
    read = set(text_corpus.questions(TEXT.model_copy(update={"bases": {"base": TEXT.bases["base"]}})))
    shorter = {one.sample.prompt for one in both[1] if one.picture is None}
    of_text = {sample.prompt for sample in text_corpus.pretraining_samples(TEXT, TEXT.seed_of("base"), careless=True)}
    again = [prompt for prompt in shorter if prompt in of_text]
    assert len(again) > 0.4 * len(shorter)  # the rest are drills and classifications, drawn anew, and legs
    assert len(read) > 10_000


def test_classifications_name_what_is_asked(both):
    labels = Counter(
        (text_of(one), "legs" in one.sample.prompt, bool(one.picture))
        for one in both[0]
        if "Classify the question" in one.sample.prompt and one.picture
    )
    named = {label for label, _, _ in labels}
    assert named == {"\\boxed{math}", "\\boxed{reasoning}", "\\boxed{other}"}
    assert all((label == "\\boxed{math}") == legs for label, legs, _ in labels)


def test_questions_hold_those_of_the_text_bases_and_every_picture(params, both):
    read = corpus.questions(params, TEXT)
    assert read == sorted(set(read))
    digests = {question.rpartition(" ")[2] for question in read}
    assert {one.picture.digest for one in both[1] if one.picture} <= digests
    assert {picture.digest for picture in corpus.tower_pictures(params)} <= digests
    languages = {"base": TEXT.bases["base"]}
    assert set(text_corpus.questions(TEXT.model_copy(update={"bases": languages}))) <= set(read)


def test_the_shipped_list_holds_no_picture_of_any_benchmark():
    shipped = text_corpus.read_prompts(PROMPTS)
    digests = {question.rpartition(" ")[2] for question in shipped}
    assert len(shipped) == len(set(shipped)) > settings.load().tower.pictures
    for family in ASKED:
        for seed in (settings.load().benchmarks.seed, 8):
            assert digests.isdisjoint(
                one.posed.shown.digest for one in draw(family, 400, seed, settings.load().look, pool="task")
            )


@pytest.mark.slow
def test_the_shipped_list_is_that_of_the_shipped_parameters():
    assert text_corpus.read_prompts(PROMPTS) == corpus.questions(settings.load(), TEXT)
