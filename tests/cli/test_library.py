"""What experts are called."""

from __future__ import annotations

from pathlib import Path

import pytest

from t2.cli import library


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("svf-math", "svf-math/seed-1"),  # the best on validation items, the first among equals
        ("svf-math/seed-2", "svf-math/seed-2"),
        ("svf-code", "svf-code/seed-0"),
        ("classifier", "classifier/seed-0"),
        ("./data/adapters/svf-math/seed-0", "./data/adapters/svf-math/seed-0"),
    ],
)
def test_an_expert_is_named_by_row_by_seed_or_by_folder(project: Path, name: str, found: str) -> None:
    entry = library.find(name)
    assert entry.name == found and (project / entry.folder / "adapter_config.json").is_file()


def test_a_row_goes_before_a_folder_of_its_name(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "svf-code").symlink_to(project / "data/adapters/svf-math/seed-0")
    for name in ("data", "params.yaml"):
        (tmp_path / name).symlink_to(project / name)
    monkeypatch.chdir(tmp_path)
    assert library.find("svf-code").task == "code"
    assert library.find("./svf-code").folder == Path("svf-code")


def test_a_name_of_nothing_says_what_there_is(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"no expert 'maths'.* this project has svf-math/seed-0, svf-math/seed-1, "):
        library.find("maths")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data/adapters holds none; `make repro` trains them"):
        library.find("math")


def test_a_curve_says_which_checkpoint_was_kept(project: Path) -> None:
    known = {entry.name: (entry.step, entry.valid_score) for entry in library.trained_experts()}
    assert known["svf-math/seed-2"] == (10, 0.75) and known["classifier/seed-0"] == (10, 0.9)


def test_weights_are_read(project: Path) -> None:
    assert library.weights(["math"]) == "math"
    assert library.weights(["math/seed-1=0.7", "base=-.3"]) == {"math/seed-1": 0.7, "base": -0.3}
    assert library.weights(["math=1e-1", "code=1"]) == {"math": 0.1, "code": 1}
    with pytest.raises(ValueError, match=r"two parts at least, got math=0\.5; half an expert is svf-math=0\.5 base"):
        library.weights(["math=0.5"])


@pytest.mark.parametrize("terms", [["math", "code"], ["math=x"], ["=1"], ["math=1", "math=2"], ["math=nan"]])
def test_what_is_no_mix_is_refused(terms: list[str]) -> None:
    with pytest.raises(ValueError, match="is no part of a mix; write each expert once, as NAME=WEIGHT"):
        library.weights(terms)
