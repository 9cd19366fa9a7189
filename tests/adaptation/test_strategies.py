"""A strategy maps prompts to mixtures; one-hot rows are their expert, or the base, exactly."""

from __future__ import annotations

import math

import pytest
import torch

from t2.adaptation.cem import start
from t2.adaptation.strategies import STRATEGIES, Choice, Setting, by_belief, by_category, equal_parts
from t2.svf.mixture import BASE, Mixture

FAMILIES = {"svf-math": "math", "svf-code": "code"}
PROMPTS = ["a", "b", "c", "d"]


def test_categories_choose_their_members_and_the_rest_the_base() -> None:
    choice = by_category(FAMILIES, ["code", None, "math", "other"])
    assert [str(choice.mixtures[row]) for row in choice.rows] == ["svf-code", "base", "svf-math", "base"]
    assert len(choice.mixtures) == 3
    expected = [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]
    assert choice.alpha(list(FAMILIES)).tolist() == [[row] for row in expected]


NO = -math.inf


def test_soft_dispatch_weighs_members_by_what_is_believed_and_the_base_by_the_rest() -> None:
    categories = ["math", "code", "history", "other"]
    believed = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.8, 0.05, 0.05]]).log().tolist()
    choice = by_belief(FAMILIES, categories, [*believed, [NO] * 4, believed[0]], 1.0)
    assert choice.categories == ("math", "code", None, "math")
    expected = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.8, 0.1], [0.0, 0.0, 1.0], [0.4, 0.3, 0.3]])
    torch.testing.assert_close(choice.alpha(list(FAMILIES))[:, 0], expected)
    assert len(choice.mixtures) == 3 and choice.rows == (0, 1, 2, 0)
    assert str(choice.mixtures[2]) == BASE, "what could not be asked is the base's, unscaled"


def test_the_temperature_goes_from_hard_dispatch_to_equal_parts() -> None:
    categories, logliks = ["math", "code", "other"], [[-1.0, -2.0, -4.0], [-3.0, -0.5, -0.6]]
    cold, hot = (by_belief(FAMILIES, categories, logliks, t).alpha(list(FAMILIES)) for t in (1e-3, 1e3))
    hard = by_category(FAMILIES, ["math", "code"]).alpha(list(FAMILIES))
    torch.testing.assert_close(cold, hard)
    torch.testing.assert_close(hot, torch.full((2, 1, 3), 1 / 3), atol=2e-3, rtol=0.0)


def test_who_is_right_for_the_task_answers_all_its_prompts() -> None:
    own = STRATEGIES["own"](Setting(FAMILIES, family="code"), PROMPTS)
    assert [str(mixture) for mixture in own.mixtures] == ["svf-code"] and own.rows == (0,) * 4
    assert own.categories == (None,) * 4
    nobody = STRATEGIES["own"](Setting(FAMILIES, family="history"), PROMPTS)
    assert [str(mixture) for mixture in nobody.mixtures] == [BASE]


@pytest.mark.parametrize("strategy", ["none", "uniform", "fewshot", "adapter"])
def test_what_needs_no_first_pass_is_the_same_for_all(strategy: str) -> None:
    families = {"svf-math": "math"} if strategy == "adapter" else FAMILIES
    found = Mixture({"svf-math": [0.9, 0.1], "svf-code": [0.2, 0.3], BASE: [0.0, 1.0]}, "free")
    mixture = {"fewshot": found, "uniform": equal_parts(list(families), None)}.get(strategy)
    choice = STRATEGIES[strategy](Setting(families, mixture=mixture), PROMPTS)
    alpha = choice.alpha(list(families))
    expected = {
        "none": [[0.0, 0.0, 1.0]],
        "uniform": [[0.5, 0.5, 0.0]],
        "fewshot": [[0.9, 0.2, 0.0], [0.1, 0.3, 1.0]],
        "adapter": [[1.0, 0.0]],
    }[strategy]
    assert torch.equal(alpha, torch.tensor(expected).expand(4, -1, -1))


def test_a_first_pass_needs_somebody_to_ask() -> None:
    with pytest.raises(ValueError, match="needs an engine"):
        STRATEGIES["prompt"](Setting(FAMILIES), PROMPTS)
    with pytest.raises(ValueError, match="and a temperature"):
        STRATEGIES["soft"](Setting(FAMILIES), PROMPTS)
    with pytest.raises(ValueError, match="no mix was searched"):
        STRATEGIES["fewshot"](Setting(FAMILIES), PROMPTS)


def test_equal_mixtures_are_one() -> None:
    same = Choice.same(Mixture({"svf-math": 1.0}), 3)
    assert same.mixtures == (Mixture({"svf-math": 1}),) and same.rows == (0, 0, 0)


def test_the_uniform_mix_is_what_a_search_starts_from(cem_settings) -> None:
    budget = cem_settings(form="free", renormalise=False, include_base=True)
    mixture = equal_parts(["svf-math", "svf-code"], budget)
    assert (mixture.form, mixture.renormalise) == ("free", False)
    assert torch.tensor(list(mixture.rows.values())).flatten().tolist() == start((3,), budget, 0).mean.tolist()
