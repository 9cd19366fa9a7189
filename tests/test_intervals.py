from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from t2.intervals import estimate, share_interval, wilson


def table(generator, runs=3, questions=500, *, sd_runs=0.0, share=0.6, base=0.5, noise=0.3):
    """Differences to a base model of results that are right or wrong: latent traits of questions, runs and their noise.

    Returns:
        (runs, questions) differences, and the difference that all runs and questions have on average.
    """
    width = np.sqrt(1 + noise**2)
    slope = stats.norm.pdf(stats.norm.ppf(share)) / width
    deviation = sd_runs / slope
    trait = generator.standard_normal(questions)
    own = 0.8 * trait + 0.6 * generator.standard_normal(questions)
    latent = own + noise * generator.standard_normal((runs, questions))
    latent += deviation * generator.standard_normal((runs, 1))
    right = latent < stats.norm.ppf(share) * np.sqrt(width**2 + deviation**2)
    return right.astype(float) - (trait < stats.norm.ppf(base)), share - base


def seeds(results):
    return [row[None] for row in results]


@pytest.mark.parametrize("runs", [3, 5])
@pytest.mark.parametrize("sd_runs", [0.0, 0.01, 0.02, 0.03])
@pytest.mark.parametrize(("share", "base"), [(0.6, 0.5), (0.9, 0.85)])
def test_intervals_cover_the_truth_of_known_components(runs, sd_runs, share, base):
    generator = np.random.default_rng(17)
    covered, n = 0, 1200
    for _ in range(n):
        results, truth = table(generator, runs, sd_runs=sd_runs, share=share, base=base)
        low, high = estimate([seeds(results)]).interval
        covered += low <= truth <= high
    assert 0.93 * n <= covered <= 0.98 * n


def test_components_are_found_again():
    generator = np.random.default_rng(2)
    found = [estimate([seeds(table(generator, 5, sd_runs=0.03)[0])]).sd_runs for _ in range(300)]
    assert np.sqrt(np.mean(np.square(found))) == pytest.approx(0.03, rel=0.1)
    draws = []
    for _ in range(300):
        results, _ = table(generator, 6, sd_runs=0.02)
        draws.append(estimate([[results[:2], results[2:4], results[4:]]]).sd_draws)
    assert np.sqrt(np.mean(np.square(draws))) == pytest.approx(0.02, rel=0.15)


def test_mean_squares_are_those_of_the_analysis_of_variance():
    generator = np.random.default_rng(4)
    d, _ = table(generator, 4, 60, sd_runs=0.1)
    n, m = d.shape
    of_runs = m * d.mean(1).var(ddof=1)
    of_questions = n * d.mean(0).var(ddof=1)
    of_errors = ((d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()) ** 2).sum() / ((n - 1) * (m - 1))
    found = estimate([seeds(d)])
    assert of_runs > of_errors
    assert found.value == pytest.approx(d.mean())
    assert found.se**2 == pytest.approx((of_questions + of_runs - of_errors) / (n * m))
    terms = (2 * of_runs) ** 2 / (n - 1) + of_questions**2 / (m - 1) + of_errors**2 / ((n - 1) * (m - 1))
    assert found.df == pytest.approx((of_questions + 2 * of_runs - of_errors) ** 2 / terms)
    assert found.sd_runs == pytest.approx(np.sqrt((of_runs - of_errors) / m))
    assert found.sd_questions == pytest.approx(np.sqrt((of_questions - of_errors) / n))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(found.value) / found.se, found.df))


def test_a_crossed_bootstrap_finds_the_same_error():
    """Of questions alone the questions' part; of runs and questions at once the whole (Owen 2007, many runs)."""
    generator = np.random.default_rng(6)
    d, _ = table(generator, 40, 400, sd_runs=0.03, noise=0.5)
    n, m = d.shape
    found = estimate([seeds(d)])
    questions = generator.multinomial(m, np.full(m, 1 / m), size=4000) / m
    of_questions = (questions @ d.mean(0)).std()
    assert estimate([seeds(d - d.mean(1, keepdims=True))]).se == pytest.approx(of_questions, rel=0.05)
    runs = generator.multinomial(n, np.full(n, 1 / n), size=4000) / n
    assert found.se == pytest.approx(np.einsum("br,rq,bq->b", runs, d, questions).std(), rel=0.05)


def test_with_one_run_it_is_the_t_interval_over_questions():
    d, _ = table(np.random.default_rng(1), 1, 80)
    found = estimate([[d]])
    expected = stats.ttest_1samp(d[0], 0)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval()))
    assert found.p == pytest.approx(expected.pvalue)
    assert np.isnan([found.sd_runs, found.sd_draws, found.sd_questions]).all()


def test_where_only_runs_vary_it_is_the_t_interval_over_runs():
    d = np.repeat([[0.1], [0.3], [0.2], [0.35]], 50, axis=1)
    assert estimate([seeds(d)]).interval == pytest.approx(tuple(stats.ttest_1samp(d[:, 0], 0).confidence_interval()))


def test_draws_are_nested_in_seeds():
    generator = np.random.default_rng(8)
    d, _ = table(generator, 4, sd_runs=0.05)
    twice = [np.stack([row, row]) for row in d]
    once, nested = estimate([seeds(d)]), estimate([twice])
    assert (nested.value, nested.interval) == (pytest.approx(once.value), pytest.approx(once.interval))
    assert nested.sd_draws == 0 and np.isnan(once.sd_draws)
    assert estimate([[d]]).interval == pytest.approx(once.interval), "one seed: its draws are the runs"


def test_independent_runs_add_their_variances():
    generator = np.random.default_rng(9)
    left, right = (table(generator, runs, 2000, sd_runs=0.06)[0] for runs in (5, 3))
    both = estimate([seeds(left), seeds(-right)])
    alone = [estimate([seeds(side)]).sd_runs ** 2 for side in (left, right)]
    assert both.value == pytest.approx(left.mean() - right.mean())
    assert both.sd_runs == pytest.approx(np.sqrt(sum(alone)))
    of_questions = (left.mean(0) - right.mean(0)).var(ddof=1) / 2000
    assert both.se**2 == pytest.approx(of_questions + alone[0] / 5 + alone[1] / 3)


def test_strata_weigh_alike():
    generator = np.random.default_rng(10)
    d = np.concatenate([table(generator, 3, 400)[0], 2 + table(generator, 3, 40)[0]], axis=1)
    labels = np.repeat([0, 1], [400, 40])
    found = estimate([seeds(d)], labels)
    parts = [estimate([seeds(d[:, labels == label])]) for label in (0, 1)]
    assert found.value == pytest.approx(np.mean([part.value for part in parts]))
    single = [estimate([[d[:1, labels == label]]]).se ** 2 for label in (0, 1)]
    assert estimate([[d[:1]]], labels).se == pytest.approx(np.sqrt(sum(single)) / 2)


def test_nothing_is_said_about_other_questions_from_one():
    with pytest.raises(ValueError, match=r"two of each kind at least, got \[1\]"):
        estimate([[np.ones((3, 1))]])
    with pytest.raises(ValueError, match=r"got \[2, 1\]"):
        estimate([[np.ones((3, 3))]], np.array([0, 0, 1]))


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 600), (600, 600), (37, 80), (412, 600)])
def test_wilson_agrees_with_scipy(correct, n):
    expected = stats.binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses_an_empty_test_split():
    with pytest.raises(ValueError, match="at least one item"):
        wilson(0, 0)


def test_the_interval_of_a_share_is_wilsons_and_stays_within_0_and_1():
    right = np.zeros((1, 400))
    assert share_interval(estimate([[right]]), 400) == wilson(0, 400)
    assert share_interval(estimate([[right + 1]]), 400) == wilson(400, 400)
    right[0, :3] = 1
    assert share_interval(estimate([[right]]), 400) == pytest.approx(wilson(3, 400), abs=1e-3)
    runs = [np.tile(share < np.linspace(0, 1, 100), (1, 1)).astype(float) for share in (0.0, 0.01, 0.2)]
    low, high = share_interval(estimate([runs]), 100)
    assert 0 < low < np.mean(runs) < high <= 1


@pytest.mark.parametrize("right", [100, 307, 333])
def test_runs_that_all_equal_the_other_side_differ_by_nothing(right):
    """Three runs of an adapter that stayed the base model: what is left is rounding, and no NaN."""
    base = (np.arange(500) < right).astype(float)[None]
    found = estimate([[base.copy() for _ in range(3)], [-base]])
    assert found.df == np.inf and found.interval == pytest.approx((0.0, 0.0), abs=1e-9)
