"""The first pass is asked as it should be, and each prompt is answered under the expert that it named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from t2.adaptation.first_pass import Ask, dispatch
from t2.adaptation.strategies import STRATEGIES, Setting
from t2.adaptation.two_pass import answer
from t2.config.rows import Prompt as Template
from t2.config.rows import Reading
from t2.engine.base import Engine, Generation, Sampling
from t2.engine.chat import parted
from t2.engine.hf import HfEngine
from t2.svf import SvfConfig, attach
from t2.tasks.classification import classification_prompt, classification_reply

CATEGORIES = ("math", "code", "other")
TEMPLATE = Template(
    system=None, user="Classify as one of {categories}.\nQuestion: {question}", examples=[], prefix=None
)


def asking(max_new_tokens: int, reading: Reading = "generation") -> Ask:
    return Ask(TEMPLATE, CATEGORIES, max_new_tokens, reading)


PROMPTS = [f"{word} {n}?" for n in range(4) for word in ("Add", "Write", "Sing", "Mumble")]
ANSWERS = {
    "Add": r"\boxed{math}",
    "Write": r"It is \boxed{Code}.",
    "Sing": r"\boxed{other}",
    "Mumble": "math",
}
EXPECTED = ["math", "code", "other", None] * 4


class Scripted:
    """Names the category by the prompt's first word; other prompts go to a real engine."""

    def __init__(self, engine: Engine | None = None) -> None:
        self.engine = engine
        self.asked: list[dict[str, Any]] = []

    def generate(
        self, prompts: Sequence[str], sampling: Sampling, *, experts=None, rows=None, progress=None
    ) -> list[Generation]:
        self.asked.append({"prompts": prompts, "sampling": sampling, "experts": experts, "rows": rows})
        if self.engine and not prompts[0].startswith("Classify"):
            return self.engine.generate(prompts, sampling, experts=experts, rows=rows, progress=progress)
        words = [prompt.splitlines()[-1].removeprefix("Question: ").split()[0] for prompt in prompts]
        return [Generation(ANSWERS[word], (), (), True, 1) for word in words]


@pytest.fixture
def engine(tiny_model, tiny_tokenizer) -> HfEngine:
    model = attach(tiny_model, SvfConfig(target_modules=["q_proj", "o_proj", "down_proj", "up_proj"]))
    return HfEngine(model, tiny_tokenizer, batch_size=64)


@pytest.fixture
def experts(engine) -> dict[str, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return {
        family: {
            name: 1 + 0.5 * torch.randn(len(sigma), generator=generator)
            for name, sigma in engine.model.sigmas().items()
        }
        for family in ("math", "code")
    }


def test_the_prompt_strategy_asks_the_base_model():
    engine = Scripted()
    assert dispatch(engine, PROMPTS, asking(12)) == EXPECTED
    (asked,) = engine.asked
    assert asked["prompts"] == [classification_prompt(TEMPLATE, prompt, CATEGORIES) for prompt in PROMPTS]
    assert asked["sampling"] == Sampling(12)
    assert asked["rows"] == [-1] * len(PROMPTS)


def test_the_classifier_strategy_asks_under_the_classifier_expert(experts):
    engine = Scripted()
    dispatch(engine, PROMPTS, asking(12), classifier=experts["math"])
    (asked,) = engine.asked
    assert asked["rows"] == [0] * len(PROMPTS)
    assert asked["experts"].keys() == experts["math"].keys()
    assert all(torch.equal(table[0], experts["math"][name]) for name, table in asked["experts"].items())


def test_dispatch_runs_on_a_model_whatever_adapter_is_active(engine):
    """The base answers the first pass even if an expert is active."""
    before = dispatch(engine, PROMPTS, asking(4))
    first = engine.generate(PROMPTS, Sampling(8), experts={}, rows=[-1] * len(PROMPTS))
    with torch.no_grad():
        for name, parameter in engine.model.named_parameters():
            if "svf_z" in name:
                parameter.fill_(0.3)
    assert engine.generate(PROMPTS, Sampling(8), experts={}, rows=[-1] * len(PROMPTS)) == first
    assert engine.generate(PROMPTS, Sampling(8)) != first
    assert dispatch(engine, PROMPTS, asking(4)) == before == [None] * len(PROMPTS)


def test_by_choice_the_engine_is_held_to_the_categories_replies():
    engine = Scripted()
    assert dispatch(engine, PROMPTS, asking(12, "choice")) == EXPECTED
    replies = tuple(classification_reply(name) for name in CATEGORIES)
    assert engine.asked[0]["sampling"] == Sampling(12, choices=replies)


def test_by_likelihood_the_category_with_the_likeliest_reply_is_taken(engine, experts):
    """Also where generation names none, as with this model."""
    z = experts["math"]
    for classifier, row in ((None, -1), (z, 0)):
        tables = {} if classifier is None else {name: values[None] for name, values in z.items()}
        wanted = []
        for prompt in PROMPTS:
            (ids,) = engine.encode([classification_prompt(TEMPLATE, prompt, CATEGORIES)])
            opening, ends = parted(engine.tokenizer, [classification_reply(name) for name in CATEGORIES])
            scores = []
            for end in ends:
                with torch.no_grad(), engine.model.per_sample(tables, [row]):
                    logits = engine.model(torch.tensor([[*ids, *opening, *end]])).logits[0, -len(end) - 1 : -1]
                scores.append(float(logits.log_softmax(-1).gather(1, torch.tensor(end)[:, None]).sum()))
            wanted.append(CATEGORIES[scores.index(max(scores))])
        found = dispatch(engine, PROMPTS, asking(1, "likelihood"), classifier=classifier)
        assert found == wanted
        assert set(found) != {"other"}


def test_by_likelihood_a_prompt_that_does_not_fit_is_called_nothing(engine):
    prompts = ["Add 1?", "\x00" * engine.context]
    assert dispatch(engine, prompts, asking(1, "likelihood"))[1] is None


def test_categories_need_other():
    with pytest.raises(ValueError, match="must hold 'other'"):
        Ask(TEMPLATE, ("math", "code"), 12)


def test_each_prompt_is_answered_under_the_expert_it_was_given(engine, experts):
    scripted = Scripted(engine)
    finished: list[int] = []
    setting = Setting({"m": "math", "c": "code"}, ask=asking(12), engine=scripted)
    members = {"m": experts["math"], "c": experts["code"]}
    result = answer(scripted, PROMPTS, Sampling(30), STRATEGIES["prompt"], setting, members, progress=finished.append)
    assert list(result.choice.categories) == EXPECTED
    assert result.first_seconds > 0 and result.second_seconds > 0
    assert len(scripted.asked) == 2 and sum(finished) == len(PROMPTS)

    def alone(prompt: str, z: Mapping[str, Tensor] | None) -> tuple[int, ...]:
        tables = {} if z is None else {name: values[None] for name, values in z.items()}
        return engine.generate([prompt], Sampling(30), experts=tables, rows=[-1 if z is None else 0])[0].tokens

    for prompt, category, generation in zip(PROMPTS, EXPECTED, result.generations, strict=True):
        assert generation.tokens == alone(prompt, experts.get(category))
    of_first = [alone(PROMPTS[0], experts.get(category)) for category in CATEGORIES]
    assert len(set(of_first)) == 3
