"""The miniature's parameter file."""

from __future__ import annotations

import pytest
import yaml

from t2.config import ConfigError
from t2.miniature import settings


def test_the_shipped_file_is_valid():
    params = settings.load()
    assert set(params.bases) == {"base", "control", "twin", "wide"}


def test_a_base_may_have_a_seed_and_a_shape_of_its_own():
    params = settings.load()
    assert params.seed_of("base") == params.seed_of("control") == params.corpus.seed != params.seed_of("twin")
    assert params.architecture_of("twin") == params.architecture_of("base") == params.architecture
    wide = params.architecture_of("wide")
    assert (wide.hidden, wide.vocabulary) == (params.bases["wide"].shape.hidden, params.architecture.vocabulary)
    assert params.seeds() == sorted({params.seed_of(base) for base in params.bases})


def test_all_errors_at_once(tmp_path):
    raw = yaml.safe_load(settings.PATH.read_text())
    raw["optimiser"]["steps"] = 0
    raw["corpus"]["carefull"] = raw["corpus"].pop("careful")
    raw["architecture"]["context"] = 512
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError) as caught:
        settings.load(path)
    for place in ("optimiser.steps", "corpus.careful", "corpus.carefull", "architecture.context"):
        assert any(problem.startswith(f"{place}:") for problem in caught.value.problems)


def test_a_family_without_a_weight_is_named(tmp_path):
    raw = yaml.safe_load(settings.PATH.read_text())
    del raw["corpus"]["families"]["other"]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="a weight for each of"):
        settings.load(path)
