from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest

from t2.files import read_csv, write_csv
from t2.statistics import (
    SCORE_COLUMNS,
    Measurement,
    Prediction,
    compare,
    confusion,
    dispatch_accuracy,
    scores,
    wilson,
)

CATEGORIES = ["math", "code", "other"]


def measure(right, *, method="svf", strategy="own", task="math", suite="trained", **key) -> Measurement:
    items = tuple(Prediction(f"{task}-{i:05d}", bool(value)) for i, value in enumerate(right))
    return Measurement("mini", suite, task, "math", method, strategy, items=items, **key)


def base(right, **key) -> Measurement:
    return measure(right, method="base", strategy="none", **key)


def row(frame: pd.DataFrame, left: str, right: str) -> pd.Series:
    (found,) = frame.index[(frame.left == left) & (frame.right == right)]
    return frame.loc[found]


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (0, 600), (600, 600), (37, 80), (412, 600)])
def test_wilson_agrees_with_scipy(correct, n):
    expected = binomtest(correct, n).proportion_ci(0.95, method="wilson")
    assert wilson(correct, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_refuses_an_empty_test_split():
    with pytest.raises(ValueError, match="at least one item"):
        wilson(0, 0)


def test_measurements_have_names_of_their_own_and_refuse_nonsense():
    runs = [measure([1], seed=s, draw=d, variant=v) for s in (None, 0) for d in (None, 0) for v in ("", "x")]
    assert len({run.name for run in runs}) == len(runs)
    with pytest.raises(ValueError, match="repeat"):
        Measurement("m", "trained", "t", "f", "svf", "own", items=(Prediction("a", True), Prediction("a", False)))


def test_scores_have_the_agreed_columns_and_empty_places_in_the_order_given(tmp_path):
    runs = [base([0, 0, 0, 1]), measure([1, 1, 0, 1], seed=1), measure([1, 0, 0, 1], seed=0)]
    frame = scores([*runs, measure([1], suite="other", strategy="prompt", task="other")])
    write_csv(tmp_path / "scores.csv", frame)
    lines = (tmp_path / "scores.csv").read_text().splitlines()
    assert lines[0] == ("base,suite,task,family,method,strategy,variant,seed,draw,n,correct,score,ci_low,ci_high")
    assert lines[1].startswith("mini,trained,math,math,base,none,,,,4,1,0.250000,")
    assert [line.split(",")[7] for line in lines[1:]] == ["", "1", "0"]
    write_csv(tmp_path / "again.csv", scores(runs))
    assert (tmp_path / "scores.csv").read_bytes() == (tmp_path / "again.csv").read_bytes()
    again = read_csv(tmp_path / "scores.csv")
    assert list(again.columns) == SCORE_COLUMNS
    pd.testing.assert_frame_equal(again, frame, check_dtype=False, atol=1e-6)
    with pytest.raises(ValueError, match="twice"):
        scores([runs[0], runs[0]])


def test_differences_are_paired_by_item_and_averaged_over_seeds():
    baseline = base([0, 0, 1, 1])
    shuffled = replace(baseline, items=baseline.items[::-1])
    runs = [measure([1, 0, 1, 1], seed=0), measure([1, 1, 1, 0], seed=1)]
    found = row(compare([shuffled, *runs], contrasts=[], resamples=200, seed=1), "svf/own", "base")
    assert (found.n_items, found.n_runs) == (4, 2)
    assert (found.mean_left, found.mean_right, found.difference) == (0.75, 0.5, 0.25)
    assert (found.run_low, found.run_high) == (0.25, 0.25)
    # Item differences are 1, ½, 0, −½: no resample can leave their range.
    assert -0.5 <= found.ci_low < found.difference < found.ci_high <= 1.0


def test_pairing_makes_the_interval_of_correlated_systems_narrow():
    generator = np.random.default_rng(0)
    right = generator.random(600) < 0.5
    better = right | (np.arange(600) < 30)
    paired = row(compare([base(right), measure(better)], contrasts=[], resamples=1000, seed=3), "svf/own", "base")
    other = row(
        compare([base(right), measure(generator.permutation(better))], contrasts=[], resamples=1000, seed=3),
        "svf/own",
        "base",
    )
    assert paired.ci_high - paired.ci_low < 0.5 * (other.ci_high - other.ci_low)
    assert paired.ci_low > 0


def test_bootstrap_interval_covers_the_truth_as_often_as_it_says():
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(200):
        left, right = generator.random(300) < 0.6, generator.random(300) < 0.5
        found = row(compare([base(right), measure(left)], contrasts=[], resamples=400, seed=7), "svf/own", "base")
        covered += found.ci_low <= 0.1 <= found.ci_high
    assert 180 <= covered <= 198


def test_contrasts_and_run_ranges():
    runs = [
        base([0, 0]),
        measure([1, 0], seed=0),
        measure([1, 1], seed=1),
        measure([0, 1], method="lora", variant="next_token", seed=0),
        measure([0, 0], method="lora", variant="next_token", seed=1),
        measure([1, 1], strategy="fewshot", seed=0, draw=0),
        measure([0, 1], strategy="fewshot", seed=1, draw=1),
        measure([1, 0], strategy="uniform", seed=0),
        measure([0, 0], strategy="uniform", seed=1),
        measure([1, 0], strategy="prompt", seed=0),
        measure([1, 1], strategy="classifier", seed=0),
    ]
    svf, lora = ("svf", "own", ""), ("lora", "own", "next_token")
    fewshot, uniform, prompt, classifier = (
        ("svf", strategy, "") for strategy in ("fewshot", "uniform", "prompt", "classifier")
    )
    absent = (svf, ("svf", "own", "absent"))
    pairs = [(fewshot, uniform), (classifier, prompt), (svf, lora), absent]
    frame = compare(runs, contrasts=pairs, resamples=50, seed=0)
    assert set(zip(frame.left, frame.right, strict=True)) == {
        *((left, "base") for left in ("svf/own", "lora/own/next_token", "svf/fewshot", "svf/uniform")),
        *((left, "base") for left in ("svf/prompt", "svf/classifier")),
        ("svf/fewshot", "svf/uniform"),
        ("svf/classifier", "svf/prompt"),
        ("svf/own", "lora/own/next_token"),
    }
    found = row(frame, "svf/own", "lora/own/next_token")  # seed 0: 1/2 − 1/2; seed 1: 1 − 0
    assert (found.run_low, found.run_high) == (0.0, 1.0)
    found = row(frame, "svf/fewshot", "svf/uniform")  # no draws on the right: partner is the seed's mix
    assert (found.run_low, found.run_high) == (0.5, 0.5)


def test_comparisons_are_seeded_and_refuse_other_items():
    generator = np.random.default_rng(0)
    runs = [base(generator.random(100) < 0.4), measure(generator.random(100) < 0.6)]
    first, again, other = (compare(runs, contrasts=[], resamples=100, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert list(first.ci_low) != list(other.ci_low)
    with pytest.raises(ValueError, match="math-00099"):
        compare([runs[0], measure([1] * 99)], contrasts=[], resamples=10, seed=0)


def test_confusion_counts_every_row_and_the_replies_that_name_nothing():
    called = ["math", "code", None, "math"]
    items = tuple(Prediction(f"i{i}", True, category=name) for i, name in enumerate(called))
    other = tuple(Prediction(f"o{i}", True, category=name) for i, name in enumerate(["other", "other"]))
    runs = [
        Measurement("m", "trained", "math", "math", "svf", "classifier", seed=0, items=items),
        Measurement("m", "other", "other", "other", "svf", "classifier", seed=0, items=other),
        measure([1, 1], seed=0),
    ]
    frame = confusion(runs, CATEGORIES)
    table = frame.pivot_table(index="truth", columns="predicted", values="count", aggfunc="sum")
    assert table.loc["math"].to_dict() == {"math": 2, "code": 1, "other": 0, "none": 1}
    assert table.loc["other"].to_dict() == {"math": 0, "code": 0, "other": 2, "none": 0}
    (accuracy,) = dispatch_accuracy(frame).itertuples(index=False)
    assert (accuracy.n, accuracy.correct) == (6, 4)
    assert accuracy.accuracy == pytest.approx(4 / 6)
    with pytest.raises(ValueError, match="'code'"):
        confusion(runs, ["math", "other"])


def test_dispatchers_of_one_strategy_are_told_apart_by_their_variant():
    runs = [
        Measurement("m", "trained", "math", "math", "svf", "prompt", variant, items=(Prediction("a", True, called),))
        for variant, called in (("", "math"), ("likelihood", "code"))
    ]
    accuracy = dispatch_accuracy(confusion(runs, CATEGORIES)).set_index("dispatcher")["accuracy"]
    assert accuracy.to_dict() == {"prompt": 1.0, "prompt/likelihood": 0.0}
