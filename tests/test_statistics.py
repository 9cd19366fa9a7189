from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from t2.files import read_csv, write_csv
from t2.statistics import (
    NO_CATEGORY,
    SCORE_COLUMNS,
    Measurement,
    Prediction,
    compare,
    confusion,
    recalls,
    scores,
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
    found = row(compare([shuffled, *runs], contrasts=[]), "svf/own", "base")
    assert (found.n_items, found.n_runs) == (4, 2)
    assert (found.mean_left, found.mean_right, found.difference) == (0.75, 0.5, 0.25)
    assert (found.run_low, found.run_high) == (0.25, 0.25)
    assert found.ci_low < found.difference < found.ci_high


def test_pairing_makes_the_interval_of_correlated_systems_narrow():
    generator = np.random.default_rng(0)
    right = generator.random(600) < 0.5
    better = right | (np.arange(600) < 30)
    paired = row(compare([base(right), measure(better)], contrasts=[]), "svf/own", "base")
    other = row(
        compare([base(right), measure(generator.permutation(better))], contrasts=[]),
        "svf/own",
        "base",
    )
    assert paired.ci_high - paired.ci_low < 0.5 * (other.ci_high - other.ci_low)
    assert paired.ci_low > 0


def test_a_mean_is_over_seeds_however_many_draws_each_has():
    runs = [measure([1, 1, 0, 0], strategy="fewshot", seed=0, draw=draw) for draw in range(3)]
    runs += [measure([1, 1, 1, 1], strategy="fewshot", seed=1, draw=0)]
    found = row(compare([base([0, 0, 0, 1]), *runs], contrasts=[]), "svf/fewshot", "base")
    assert (found.n_runs, found.n_seeds, found.mean_left, found.difference) == (4, 2, 0.75, 0.5)
    assert found.ratio == 3.0


def test_runs_are_paired_by_seed_only_where_both_sides_have_the_same_seeds():
    generator = np.random.default_rng(3)
    level = generator.random(400)
    luck = (0.0, 0.2, 0.4)
    runs = [measure(level < 0.4 + shift, seed=seed) for seed, shift in enumerate(luck)]
    runs += [measure(level < 0.3 + shift, strategy="uniform", seed=seed) for seed, shift in enumerate(luck)]
    runs += [measure(level < 0.3 + shift, strategy="fewshot", seed=seed + 1, draw=0) for seed, shift in enumerate(luck)]
    own, uniform, fewshot = (("svf", strategy, "") for strategy in ("own", "uniform", "fewshot"))
    frame = compare([base(level < 0.2), *runs], contrasts=[(own, uniform), (own, fewshot)])
    paired, apart = row(frame, "svf/own", "svf/uniform"), row(frame, "svf/own", "svf/fewshot")
    assert paired.difference == pytest.approx(apart.difference)
    assert paired.sd_runs < 0.02 < 0.2 < apart.sd_runs, "what the seeds share cancels out"


def test_a_ratio_has_an_interval_and_none_over_nothing():
    generator = np.random.default_rng(0)
    right = generator.random(500) < 0.4
    better = [measure(right | (generator.random(500) < 0.3), seed=seed) for seed in range(3)]
    found = row(compare([base(right), *better], contrasts=[]), "svf/own", "base")
    assert 1 < found.ratio_low < found.ratio < found.ratio_high < 3
    assert found.ratio == pytest.approx(found.mean_left / found.mean_right)
    found = row(compare([base([0, 0]), measure([1, 0])], contrasts=[]), "svf/own", "base")
    assert np.isnan([found.ratio, found.ratio_low, found.ratio_high]).all()


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
    frame = compare(runs, contrasts=pairs)
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


def test_comparisons_refuse_other_items():
    with pytest.raises(ValueError, match="math-00099"):
        compare([base([1] * 100), measure([1] * 99)], contrasts=[])


def called(names, *, task="math", truth="math", strategy="classifier", seed=0, dispatcher_seed=None, **key):
    items = tuple(Prediction(f"{task}-{i}", True, category=name) for i, name in enumerate(names))
    suite = "other" if truth == "other" else "trained"
    return Measurement(
        "m", suite, task, truth, "svf", strategy, seed=seed, dispatcher_seed=dispatcher_seed, items=items, **key
    )


def test_confusion_counts_every_row_and_the_replies_that_name_nothing():
    runs = [
        called(["math", "code", NO_CATEGORY, "math"]),
        called(["other", NO_CATEGORY], task="other", truth="other"),
        measure([1, 1], seed=0),
    ]
    table = confusion(runs, CATEGORIES).pivot_table(index="truth", columns="predicted", values="count", aggfunc="sum")
    assert table.loc["math"].to_dict() == {"math": 2, "code": 1, "other": 0, "none": 1}
    assert table.loc["other"].to_dict() == {"math": 0, "code": 0, "other": 1, "none": 1}
    with pytest.raises(ValueError, match="'code'"):
        confusion(runs, ["math", "other"])


def test_a_dispatcher_that_names_nothing_at_all_has_its_rows():
    frame = confusion([called([NO_CATEGORY] * 3)], CATEGORIES)
    assert frame.set_index("predicted")["count"].to_dict() == {"math": 0, "code": 0, "other": 0, "none": 3}


def test_what_names_categories_without_a_seed_is_counted_once():
    prompt = [called(["math", "code"], strategy="prompt", seed=seed) for seed in range(3)]
    classifier = [called(["math", "math"], seed=seed, dispatcher_seed=seed) for seed in range(3)]
    frame = confusion([*prompt, *classifier], CATEGORIES)
    assert frame.groupby("dispatcher")["count"].sum().to_dict() == {"prompt": 2, "classifier": 6}
    assert frame["seed"].isna().sum() == 4
    assert recalls([*prompt, *classifier], contrasts=[]).set_index(["dispatcher", "category"])["n_seeds"].to_dict() == {
        (dispatcher, category): seeds
        for dispatcher, seeds in (("prompt", 1), ("classifier", 3))
        for category in ("balanced", "math")
    }


def test_balanced_accuracy_does_not_hang_on_how_many_prompts_a_category_has():
    runs = [
        called(["math"] * 90 + ["code"] * 10),
        called(["other"] * 2 + [NO_CATEGORY] * 2, task="other", truth="other"),
        called(["math"] * 80 + ["code"] * 20, strategy="prompt"),
        called(["other"] * 4, task="other", truth="other", strategy="prompt"),
    ]
    pairs = [(("svf", "classifier", ""), ("svf", "prompt", ""))]
    found = recalls(runs, contrasts=pairs).set_index(["dispatcher", "against", "category"]).sort_index()
    assert found["value"]["classifier", ""].to_dict() == pytest.approx({"balanced": 0.7, "math": 0.9, "other": 0.5})
    assert found["value"]["prompt", ""].to_dict() == pytest.approx({"balanced": 0.9, "math": 0.8, "other": 1.0})
    assert found["value"]["classifier", "prompt"].to_dict() == pytest.approx(
        {"balanced": -0.2, "math": 0.1, "other": -0.5}
    )
    assert (found["ci_low"] <= found["value"]).all() and (found["value"] <= found["ci_high"]).all()
    assert found["p"].isna().to_dict() == {key: not key[1] for key in found.index}


def test_dispatchers_of_one_strategy_are_told_apart_by_their_variant():
    runs = [
        called([name] * 2, strategy="prompt", variant=variant)
        for variant, name in (("", "math"), ("likelihood", "code"))
    ]
    balanced = recalls(runs, contrasts=[]).query("category == 'balanced'").set_index("dispatcher")["value"]
    assert balanced.to_dict() == {"prompt": 1.0, "prompt/likelihood": 0.0}


def test_an_accuracy_that_is_a_share_counts_as_one():
    """Of questions about images."""
    shares = [0.3, 0.9, 0.0, 1.0]
    items = tuple(Prediction(f"q-{n}", share, flexible=1.0) for n, share in enumerate(shares))
    run = Measurement("mini", "trained", "signs", "vision", "svf", "own", seed=0, items=items)
    (found,) = scores([run]).to_dict("records")
    assert found["correct"] == pytest.approx(2.2) and found["score"] == pytest.approx(0.55)
    assert found["ci_low"] < 0.55 < found["ci_high"]
    other = replace(run, method="base", strategy="none", seed=None, items=tuple(replace(i, correct=0.0) for i in items))
    assert compare([run, other], contrasts=[]).iloc[0].difference == pytest.approx(0.55)
