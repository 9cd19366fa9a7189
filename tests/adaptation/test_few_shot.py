"""A population that runs in one batch scores what its members score one at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from t2.adaptation import few_shot
from t2.adaptation.cem import search, start
from t2.adaptation.few_shot import mean_loglik, shot_evaluator
from t2.engine.base import Generation, Sampling
from t2.engine.hf import HfEngine
from t2.svf import SvfConfig, attach, mix
from t2.tasks.item import Item

SHOTS = [Item(f"shot-{n}", f"Tom has {n} apples and buys {n * n} more. How many?", str(n)) for n in range(5)]


def grade_by_letters(kind, items, replies, sandbox=None, *, reward=None) -> list[bool]:
    """Stands in for a task that the random model can solve: about a third of its replies."""
    return [(sum(map(ord, reply)) + int(item.answer)) % 3 == 0 for item, reply in zip(items, replies, strict=True)]


@pytest.fixture
def engine(tiny_model, tiny_tokenizer) -> HfEngine:
    model = attach(tiny_model, SvfConfig(target_modules=["q_proj", "v_proj", "o_proj", "down_proj"]))
    return HfEngine(model, tiny_tokenizer, batch_size=512)


@pytest.fixture
def experts(engine) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {name: 1 + 0.5 * torch.randn(len(sigma), generator=generator) for name, sigma in engine.model.sigmas().items()}
        for _ in range(3)
    ]


def alphas(*shape: int) -> Tensor:
    return 1 / 3 + 0.15 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("form", "shape"), [("normalised", (12, 3)), ("normalised", (12, 2, 3)), ("free", (12, 3))])
def test_the_population_in_one_batch_equals_one_member_at_a_time(
    engine, experts, cem_settings, monkeypatch, form, shape
):
    monkeypatch.setattr(few_shot, "grade", grade_by_letters)
    calls = []
    generate = engine.generate
    engine.generate = lambda *args, **kwargs: calls.append(generate(*args, **kwargs)) or calls[-1]
    sigma = engine.model.sigmas()
    population = alphas(*shape)
    evaluate = shot_evaluator(
        engine, "math", SHOTS, experts, cem_settings(form=form), sampling=Sampling(24), sigma=sigma
    )
    scores = evaluate(population)
    assert len(calls) == 1 and len(calls[0]) == 12 * len(SHOTS)
    replies = set()
    for member, alpha in enumerate(population):
        z = mix(experts, alpha, form, sigma)
        alone = generate(
            [shot.prompt for shot in SHOTS],
            Sampling(24),
            experts={name: values[None] for name, values in z.items()},
            rows=[0] * len(SHOTS),
        )
        together = calls[0][member * len(SHOTS) : (member + 1) * len(SHOTS)]
        assert [one.tokens for one in alone] == [one.tokens for one in together]
        right = grade_by_letters("math", SHOTS, [one.text for one in alone])
        assert scores.score[member] == sum(right) / len(SHOTS)
        assert scores.loglik[member].item() == pytest.approx(mean_loglik(alone, right), abs=1e-4)
        replies.add(alone[0].tokens)
    assert len(replies) > 6 and len(set(scores.score.tolist())) > 1


def test_a_candidate_that_cannot_be_rescaled_is_invalid_and_not_run(engine, experts, cem_settings, monkeypatch):
    monkeypatch.setattr(few_shot, "grade", grade_by_letters)
    settings = cem_settings(form="free", population=4)
    evaluate = shot_evaluator(
        engine, "math", SHOTS, experts, settings, sampling=Sampling(4), sigma=engine.model.sigmas()
    )
    scores = evaluate(torch.tensor([[0.3, 0.3, 0.4], [-1.0, -1.0, -1.0], [1.0, 0.0, 0.0]]))
    assert scores.score[1] == scores.loglik[1] == -torch.inf
    assert scores.score[[0, 2]].isfinite().all()
    none = evaluate(-torch.ones(2, 3))
    assert (none.score == -torch.inf).all()


def test_a_search_on_shots_runs_and_repeats(engine, experts, cem_settings, monkeypatch):
    monkeypatch.setattr(few_shot, "grade", grade_by_letters)
    settings = cem_settings(population=8, generations=2)
    evaluate = shot_evaluator(engine, "math", SHOTS, experts, settings, sampling=Sampling(12))
    first, second = (search(start((3,), settings, 0), settings, evaluate) for _ in range(2))
    assert torch.equal(first.best, second.best) and first.score > 0


def test_sampled_replies_are_graded_for_each_shot_and_repeat(engine, experts, cem_settings, monkeypatch):
    monkeypatch.setattr(few_shot, "grade", grade_by_letters)
    settings = cem_settings(objective={"kind": "accuracy", "temperature": 1.0, "samples": 3})
    sampling = Sampling(12, temperature=1.0, seed=5)
    evaluate = shot_evaluator(engine, "math", SHOTS, experts, settings, sampling=sampling)
    replies = engine.generate(
        [shot.prompt for shot in SHOTS for _ in range(3)],
        sampling,
        experts={name: z[None] for name, z in mix(experts, torch.tensor([0.2, 0.3, 0.5])).items()},
        rows=[0] * 15,
    )
    right = grade_by_letters("math", [shot for shot in SHOTS for _ in range(3)], [one.text for one in replies])
    one, again = (evaluate(torch.tensor([[0.2, 0.3, 0.5]])) for _ in range(2))
    assert one.score.item() == sum(right) / 15 and torch.equal(one.loglik, again.loglik)
    assert len({one.text for one in replies[:3]}) > 1


def test_the_likelihood_of_worked_replies_ranks_candidates(engine, experts, cem_settings):
    settings = cem_settings(objective={"kind": "likelihood"}, population=4)
    worked = [replace(shot, reply=f"#### {shot.answer}") for shot in SHOTS]
    evaluate = shot_evaluator(engine, "math", worked, experts, settings, sampling=Sampling(4))
    population = alphas(4, 3)
    scores = evaluate(population)
    for alpha, score, loglik in zip(population, *scores, strict=True):
        tables = {name: z[None] for name, z in mix(experts, alpha).items()}
        prompts, replies = [item.prompt for item in worked], [item.reply for item in worked]
        tokens = [one for reply in engine.read(prompts, replies, experts=tables, rows=[0] * 5) for one in reply]
        assert loglik.item() == pytest.approx(sum(tokens) / len(tokens), abs=1e-4)
        assert score.item() == pytest.approx(loglik.exp().item())
    assert search(start((3,), settings, 0), settings, evaluate).score >= scores.score.min()
    with pytest.raises(ValueError, match=r"shot-0, shot-1, shot-2.*no worked reply"):
        shot_evaluator(engine, "math", SHOTS, experts, settings, sampling=Sampling(4))


def test_loglik_is_a_mean_over_the_tokens_of_right_answers():
    def reply(*logprobs: float) -> Generation:
        return Generation("", tuple(range(len(logprobs))), logprobs, True, 1)

    replies = [reply(-1.0, -2.0, -3.0), reply(-100.0), reply(-4.0)]
    assert mean_loglik(replies, [True, False, True]) == -2.5
    assert mean_loglik(replies, [False, False, False]) == -torch.inf


def test_shots_are_needed(engine, experts, cem_settings):
    with pytest.raises(ValueError, match="needs shots"):
        shot_evaluator(engine, "math", [], experts, cem_settings(), sampling=Sampling(4))
