"""The search finds optima, ranks as it says, and goes on after an interruption as if there had been none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from t2.adaptation.cem import Scores, State, advance, search, start
from t2.adaptation.search_state import load_state, save_state

TARGET = torch.tensor([0.9, -0.4, 0.2])


def quadratic(alphas: Tensor) -> Scores:
    accuracy = torch.exp(-((alphas - TARGET) ** 2).flatten(1).sum(1))
    return Scores(accuracy, torch.zeros(len(alphas)))


def coarse(alphas: Tensor) -> Scores:
    """Accuracy in steps of a tenth, as with ten shots; the log-likelihood tells equals apart."""
    distance = ((alphas - TARGET) ** 2).flatten(1).sum(1)
    return Scores((10 * torch.exp(-distance)).floor() / 10, -distance)


def scored(accuracy: list[float], loglik: list[float]):
    return lambda alphas: Scores(torch.tensor(accuracy), torch.tensor(loglik))


def drawn(state: State, settings) -> Tensor:
    """The population that the next generation will score."""
    seen = []

    def look(alphas: Tensor) -> Scores:
        seen.append(alphas)
        return Scores(torch.zeros(len(alphas)), torch.zeros(len(alphas)))

    advance(state, settings, look)
    return seen[0]


def assert_equal(left: State, right: State) -> None:
    for name in ("mean", "std", "best", "random"):
        assert torch.equal(getattr(left, name), getattr(right, name))
    assert (left.score, left.loglik, len(left.history)) == (
        right.score,
        right.loglik,
        len(right.history),
    )
    for one, other in zip(left.history, right.history, strict=True):
        for name in ("elites", "mean", "std", "best"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        for name in ("score", "loglik", "mean_score", "any_right"):
            assert getattr(one, name) == getattr(other, name)


@pytest.mark.parametrize("evaluate", [quadratic, coarse])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_it_finds_the_optimum(evaluate, shape, cem_settings):
    settings = cem_settings(population=64, generations=30)
    for seed in range(3):
        state = search(start(shape, settings, seed), settings, evaluate)
        assert (state.mean - TARGET).abs().max() < 0.1
        assert (state.best - TARGET).abs().max() < 0.1
        assert state.mean.shape == state.best.shape == shape


def test_it_starts_from_the_uniform_mix(cem_settings):
    settings = cem_settings(population=4000)
    state = start((2, 4), settings, seed=0)
    assert torch.equal(state.mean, torch.full((2, 4), 0.25))
    alphas = drawn(state, settings)
    assert alphas.shape == (4000, 2, 4)
    torch.testing.assert_close(alphas.mean(0), state.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(alphas.std(0), torch.full((2, 4), 0.3), atol=0.03, rtol=0)


def test_a_generation_moves_to_the_mean_and_deviation_of_its_elites(cem_settings):
    settings = cem_settings()
    state = start((3,), settings, seed=1)
    alphas = drawn(state, settings)
    accuracy = torch.linspace(0, 1, 32)[torch.randperm(32, generator=torch.Generator().manual_seed(0))]
    moved = advance(state, settings, lambda _: Scores(accuracy, torch.zeros(32)))
    elites = alphas.numpy()[np.argsort(accuracy.numpy())[::-1][:6]]
    np.testing.assert_allclose(moved.mean, elites.mean(0), rtol=1e-6)
    np.testing.assert_allclose(moved.std, elites.std(0), rtol=1e-5)
    np.testing.assert_array_equal(moved.history[0].elites, elites)
    np.testing.assert_array_equal(moved.best, elites[0])
    assert moved.history[0].mean_score == pytest.approx(0.5)


def test_the_deviation_has_a_floor(cem_settings):
    settings = cem_settings(population=4, elite_share=0.25, min_std=0.05)
    moved = advance(start((2,), settings, 0), settings, scored([0.0, 1.0, 0.0, 0.0], [0.0] * 4))
    assert torch.equal(moved.std, torch.full((2,), 0.05))


def test_loglik_breaks_ties_among_elites(cem_settings):
    settings = cem_settings(population=5, elite_share=0.4)
    state = start((2,), settings, 0)
    alphas = drawn(state, settings)
    moved = advance(state, settings, scored([0.5, 0.5, 0.5, 0.1, 0.5], [-3.0, -1.0, -4.0, -0.1, -2.0]))
    assert torch.equal(moved.history[0].elites, alphas[[1, 4]])
    assert torch.equal(moved.best, alphas[1]) and moved.loglik == -1.0


def test_what_loglik_leaves_goes_to_the_first_drawn(cem_settings):
    settings = cem_settings(population=6, elite_share=0.5)
    state = start((2,), settings, 0)
    alphas = drawn(state, settings)
    moved = advance(
        state,
        settings,
        scored([0.0, 0.2, 0.0, 0.2, 0.0, 0.0], [-torch.inf, -1, -torch.inf, -1, -torch.inf, -torch.inf]),
    )
    assert torch.equal(moved.history[0].elites, alphas[[1, 3, 0]])


@pytest.mark.parametrize(
    ("second", "replaces"),
    [
        ((0.5, -1.0), True),
        ((0.5, -2.0), False),
        ((0.5, -3.0), False),
        ((0.6, -9.0), True),
        ((0.4, -0.1), False),
    ],
)
def test_ties_between_generations_are_broken_in_the_same_way(second, replaces, cem_settings):
    settings = cem_settings(population=2, elite_share=0.5)
    first = advance(start((2,), settings, 0), settings, scored([0.5, 0.1], [-2.0, -1.0]))
    later = advance(first, settings, scored([0.0, second[0]], [-torch.inf, second[1]]))
    expected = drawn(first, settings)[1] if replaces else first.best
    assert torch.equal(later.best, expected)
    assert (later.score, later.loglik) == (pytest.approx(second) if replaces else (0.5, -2.0))


def test_a_generation_without_a_right_answer_changes_nothing_and_is_counted(cem_settings):
    settings = cem_settings(population=3)
    state = start((3,), settings, 0)
    nothing = scored([0.0, -torch.inf, 0.0], [-torch.inf] * 3)
    moved = advance(state, settings, nothing)
    assert torch.equal(moved.mean, state.mean) and torch.equal(moved.std, state.std)
    assert torch.equal(moved.best, state.mean) and (moved.score, moved.loglik) == (0.0, -torch.inf)
    assert moved.without_answer == 1 and len(moved.history[0].elites) == 0
    assert not torch.equal(drawn(moved, settings), drawn(state, settings))
    found = advance(moved, settings, scored([0.0, 0.1, 0.0], [-torch.inf, -1.0, -torch.inf]))
    again = advance(found, settings, nothing)
    assert torch.equal(again.mean, found.mean) and torch.equal(again.best, found.best)
    assert again.without_answer == 2 and len(again.history) == 3


def test_invalid_candidates_are_never_elites(cem_settings):
    settings = cem_settings(population=4, elite_share=1.0)
    state = start((2,), settings, 0)
    alphas = drawn(state, settings)
    moved = advance(state, settings, scored([-torch.inf, 0.3, -torch.inf, 0.0], [5.0, -1.0, 5.0, -torch.inf]))
    assert torch.equal(moved.history[0].elites, alphas[[1, 3]])
    assert moved.history[0].mean_score == pytest.approx(0.15)
    none = advance(state, settings, scored([-torch.inf] * 4, [-torch.inf] * 4))
    assert none.without_answer == 1 and torch.equal(none.mean, state.mean)


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_a_resumed_search_equals_an_uninterrupted_one_bit_for_bit(shape, tmp_path, cem_settings):
    settings = cem_settings(generations=7)
    whole = search(start(shape, settings, seed=4), settings, coarse)
    path = tmp_path / "scratch" / "state.safetensors"

    class KilledError(Exception):
        pass

    def killed_in_the_fourth(state: State) -> None:
        save_state(state, path)
        torch.manual_seed(99)
        if len(state.history) == 4:
            raise KilledError

    with pytest.raises(KilledError):
        search(start(shape, settings, seed=4), settings, coarse, killed_in_the_fourth)
    stored = load_state(path)
    assert len(stored.history) == 4
    assert_equal(search(stored, settings, coarse), whole)


def test_the_seed_decides(tmp_path, cem_settings):
    settings = cem_settings(generations=3)
    first, again, other = (search(start((3,), settings, seed), settings, coarse) for seed in (0, 0, 1))
    assert_equal(first, again)
    assert not torch.equal(first.best, other.best)
    for name, state in (("first", first), ("again", again)):
        save_state(state, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()


def test_a_state_before_any_generation_can_be_saved(tmp_path, cem_settings):
    state = start((3,), cem_settings(), 0)
    save_state(state, tmp_path / "state")
    assert_equal(load_state(tmp_path / "state"), state)


def test_a_damaged_state_is_refused(tmp_path, cem_settings):
    path = tmp_path / "state"
    save_state(start((3,), cem_settings(), 0), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="holds no search state"):
        load_state(path)


@pytest.mark.parametrize(
    "scores",
    [
        Scores(torch.zeros(3), torch.zeros(3)),
        Scores(torch.zeros(32, 1), torch.zeros(32)),
        Scores(torch.zeros(32), torch.full((32,), torch.nan)),
    ],
)
def test_scores_that_make_no_sense_are_refused(scores, cem_settings):
    settings = cem_settings()
    with pytest.raises(ValueError, match="must score 32 candidates"):
        advance(start((3,), settings, 0), settings, lambda alphas: scores)


def test_random_search_draws_every_generation_as_the_first(cem_settings):
    settings = cem_settings(algorithm="random", population=200, generations=4)
    seen = []

    def evaluate(alphas):
        seen.append(alphas)
        return quadratic(alphas)

    state = search(start((3,), settings, 2), settings, evaluate)
    assert torch.equal(state.mean, torch.full((3,), 1 / 3)) and torch.equal(state.std, torch.full((3,), 0.3))
    torch.testing.assert_close(seen[-1].std(0), state.std, atol=0.05, rtol=0)
    assert not torch.equal(seen[0], seen[1]) and all(not len(step.elites) for step in state.history)
    every = torch.cat(seen)
    assert torch.equal(state.best, every[quadratic(every).score.argmax()])
    # The first generation is the same draws in both.
    other = advance(start((3,), settings, 2), cem_settings(population=200), evaluate)
    assert torch.equal(seen[-1], seen[0]) and torch.equal(other.best, state.history[0].best)


def test_a_search_knows_which_generation_its_best_comes_from(cem_settings):
    settings = cem_settings(population=2, generations=4)
    rounds = iter([([0.2, 0.5], [-2, -2]), ([0.5, 0.1], [-1, -1]), ([0.7, 0.0], [-3, -3]), ([0.7, 0.0], [-2, -9])])
    state = search(start((2,), settings, 0), settings, lambda alphas: scored(*next(rounds))(alphas))
    assert (state.best_generation, state.score_generation, state.first_score) == (4, 3, 0.5)
    nobody = search(start((2,), settings, 0), settings, scored([0.0, 0.0], [-torch.inf] * 2))
    assert (nobody.best_generation, nobody.score_generation, nobody.first_score) == (0, 0, 0.0)
