"""The pretraining corpus: phases, carelessness, categories, and no question of the tasks."""

from __future__ import annotations

import pytest

from t2.miniature import corpus, settings
from t2.miniature.problems import FAMILIES, generate, pool_of
from t2.stages.pretrain import PROMPTS


@pytest.fixture(scope="module")
def params():
    full = settings.load()
    return full.model_copy(update={"optimiser": full.optimiser.model_copy(update={"steps": 100})})


def test_only_the_later_phase_is_careless(params):
    careful = corpus.pretraining_samples(params, 1, careless=False)
    mixed = corpus.pretraining_samples(params, 1, careless=True)
    total = params.optimiser.steps * params.optimiser.batch
    assert len(careful) == len(mixed) == total
    early = int(total * params.corpus.careful)
    assert [a.prompt for a in careful] == [b.prompt for b in mixed]
    drills = [a.prompt == "Work these out." for a in careful]
    changed = [n for n, (a, b) in enumerate(zip(careful, mixed, strict=True)) if a.reply != b.reply and not drills[n]]
    assert min(changed) >= early
    assert 0.25 < len(changed) / (total - early) < 0.5
    assert 0.1 < sum(drills) / total < 0.5


def test_carelessness_follows_the_register(params):
    careful = corpus.pretraining_samples(params, 1, careless=False)
    mixed = corpus.pretraining_samples(params, 1, careless=True)
    early = int(len(mixed) * params.corpus.careful)
    later = list(zip(careful, mixed, strict=True))[early:]

    def share(opener):
        some = [a.reply != b.reply for a, b in later if a.prompt.startswith(opener)]
        return sum(some) / len(some)

    assert share("Take your time.") < 0.2 < 0.6 < share("No time now.")


def test_questions_are_all_of_the_pretraining_pool(params):
    read = corpus.questions(params)
    assert len(read) == len(set(read)) > 1000
    assert {pool_of(question) for question in read} == {"pretraining"}
    one = params.model_copy(update={"bases": {"base": params.bases["base"]}})
    assert set(corpus.questions(one)) < set(read)  # the twin read others


def test_categories_are_asked_with_and_without_the_fourth_family(params):
    asked = {
        categories: {
            (family, "".join(piece for piece, _ in sample.reply))
            for family, opening in (("text", "The list is "), ("math", " has "))
            for sample in corpus.pretraining_samples(params, 1, careless=False)
            if f"category: {', '.join(categories)}." in sample.prompt and opening in sample.prompt
        }
        for categories in corpus.CATEGORIES
    }
    without, with_text = (asked[categories] for categories in corpus.CATEGORIES)
    assert ("text", "\\boxed{text}") in with_text and ("text", "\\boxed{other}") in without
    assert ("math", "\\boxed{math}") in with_text & without
    assert not any("text}" in reply for _, reply in without)


def test_the_shipped_questions_are_those_of_the_shipped_parameters_and_of_no_task():
    shipped = corpus.read_prompts(PROMPTS)
    assert shipped == corpus.questions(settings.load())
    for family in FAMILIES:
        assert set(shipped).isdisjoint(problem.question for problem in generate(family, 500, 7))


def test_prompts_round_trip(tmp_path):
    prompts = ["a\nb", "é “quoted”", ""]
    corpus.write_prompts(tmp_path / "p.xz", prompts)
    assert corpus.read_prompts(tmp_path / "p.xz") == prompts
