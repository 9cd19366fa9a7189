"""The pretraining corpus: phases, carelessness, and no prompt of the tasks."""

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
    careful = corpus.pretraining_samples(params, careless=False)
    mixed = corpus.pretraining_samples(params, careless=True)
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
    careful = corpus.pretraining_samples(params, careless=False)
    mixed = corpus.pretraining_samples(params, careless=True)
    early = int(len(mixed) * params.corpus.careful)
    later = list(zip(careful, mixed, strict=True))[early:]

    def share(opener):
        some = [a.reply != b.reply for a, b in later if a.prompt.startswith(opener)]
        return sum(some) / len(some)

    assert share("Take your time.") < 0.2 < 0.6 < share("No time now.")


def test_inner_prompts_are_all_of_the_pretraining_pool(params):
    inner = corpus.inner_prompts(params)
    assert len(inner) == len(set(inner)) > 1000
    assert {pool_of(prompt) for prompt in inner} == {"pretraining"}


def test_the_shipped_prompts_are_those_of_the_shipped_parameters_and_hold_no_task_prompt():
    shipped = corpus.read_prompts(PROMPTS)
    assert shipped == corpus.inner_prompts(settings.load())
    text = "\n".join(shipped)
    for family in FAMILIES:
        assert not any(item.fields["question"] in text for item in generate(family, 100, 7))


def test_prompts_round_trip(tmp_path):
    prompts = ["a\nb", "é “quoted”", ""]
    corpus.write_prompts(tmp_path / "p.xz", prompts)
    assert corpus.read_prompts(tmp_path / "p.xz") == prompts
