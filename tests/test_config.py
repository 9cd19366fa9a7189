"""The configuration is validated whole, and every problem is named at once."""

from pathlib import Path

import pytest
import yaml

from t2 import config

ROOT = Path(__file__).parents[1]

ROWS = {"layout": "gsm8k", "train": "a", "test": "b"}


def use_vllm(raw: dict, device: str, **settings: object) -> None:
    raw["engine"]["name"] = "vllm"
    raw["engine"]["vllm"].update(settings)
    raw["execution"].update(device=device)


@pytest.fixture
def raw() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_the_committed_parameters_are_valid() -> None:
    params = config.load(ROOT / "params.yaml")
    assert params.categories[-1] == config.OTHER
    assert set(params.experts) == set(params.trained)


def test_all_problems_are_listed_at_once(raw: dict) -> None:
    raw["svf"]["colour"] = 1  # unknown key
    raw["benchmark"]["batch"] = -1  # bad value
    del raw["tracking"]  # missing section
    raw["typo"] = {}  # unknown section
    del raw["experts"]["math"]  # relation between two sections that are valid by themselves
    raw["training"]["micro_batch"] = 10_000  # relation inside a section
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw)
    named = [problem.split(":")[0] for problem in caught.value.problems]
    assert named == ["benchmark.batch", "experts", "svf.colour", "tracking", "training.micro_batch", "typo"]
    assert "got -1" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda raw: raw["trained"]["math"].update(family="other"), "trained"),
        (lambda raw: raw["trained"]["math"].update(family="code"), "trained"),
        (lambda raw: raw["trained"]["math"]["sizes"].update(train=0), "trained.math.sizes"),
        (lambda raw: raw["unseen"].update(math=raw["unseen"]["math_hard"]), "unseen.math"),
        (lambda raw: raw["unseen"]["math_hard"].update(family="poetry"), "unseen.math_hard.family"),
        (lambda raw: raw["unseen"]["math_hard"]["sizes"].update(shots=1), "unseen.math_hard.sizes.shots"),
        (lambda raw: raw["experts"]["math"].update(method="lora"), "experts.math.method"),
        (lambda raw: raw["classifier"]["recipe"].update(method="lora"), "classifier.recipe.method"),
        (lambda raw: raw["control"].update(name=raw["base"]["name"]), "control.name"),
        (lambda raw: raw["training"].update(seeds=[1, 1]), "training.seeds"),
        (lambda raw: raw["engine"]["vllm"].update(tensor_parallel=2), "engine.vllm.tensor_parallel"),
        (lambda raw: raw["engine"]["vllm"].update(tensor_parallel=0), "engine.vllm.tensor_parallel"),
        (lambda raw: raw["engine"]["vllm"].update(sleep="deeply"), "engine.vllm.sleep"),
        (lambda raw: use_vllm(raw, device="cpu", sleep=True), "engine.vllm.sleep"),
        (lambda raw: raw["trained"]["math"]["source"].update(train="x.jsonl"), "trained.math.source"),
        (lambda raw: raw["trained"]["math"].update(source={"layout": "gsm8k", "train": "a"}), "trained.math.source"),
        (lambda raw: raw["trained"]["math"]["source"].update(hub="openai/gsm8k"), "trained.math.source"),
        (lambda raw: raw["trained"]["math"].update(source={**ROWS, "hub": "openai/gsm8k"}), "trained.math.source"),
        (lambda raw: raw["trained"]["math"].update(source={**ROWS, "revision": "e53f048"}), "trained.math.source"),
        (lambda raw: raw["trained"]["math"].update(source={**ROWS, "subset": "main"}), "trained.math.source"),
        (lambda raw: raw["trained"]["math"].update(source={**ROWS, "family": "math"}), "trained.math.source"),
        (lambda raw: raw["trained"]["math"].update(stop=[""]), "trained.math.stop.0"),
        (lambda raw: raw["benchmark"].update(dispatch="choice"), "benchmark.dispatch"),
    ],
)
def test_each_relation_is_checked(raw: dict, change, where: str) -> None:
    change(raw)
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw)
    assert where in {problem.split(":")[0] for problem in caught.value.problems}


def test_tensor_parallelism_and_sleep_are_allowed_where_they_can_be_had(raw: dict) -> None:
    use_vllm(raw, device="cuda", experts="folded", tensor_parallel=4, sleep=True)
    found = config.parse(raw).engine.vllm
    assert (found.tensor_parallel, found.sleep) == (4, True)


@pytest.mark.parametrize("name", ["base", "control"])
def test_a_quantised_base_runs_with_transformers_only(raw: dict, name: str) -> None:
    for kind in ("int8", "nf4"):
        raw[name]["quantisation"] = kind
        assert getattr(config.parse(raw), name).quantisation == kind
    raw["engine"]["name"] = "vllm"
    raw["execution"]["workers"] = 1
    raw["svf"]["colour"] = 1
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [f"{name}.quantisation", "svf.colour"]
    raw[name]["quantisation"] = "int3"
    with pytest.raises(config.ConfigError, match=rf"{name}\.quantisation: .*'int8' or 'nf4'.*'int3'"):
        config.parse(raw)


def test_rows_come_from_files_or_from_a_revision_on_the_hub(raw: dict) -> None:
    for source in (ROWS, {**ROWS, "hub": "openai/gsm8k", "subset": "main", "revision": "e53f048"}):
        raw["trained"]["math"]["source"] = source
        assert config.parse(raw).trained["math"].source.train == "a"


def test_a_missing_file_and_broken_yaml_say_so(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="no such file"):
        config.load(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(config.ConfigError, match="not YAML"):
        config.load(tmp_path / "broken.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(config.ConfigError, match="expected a mapping"):
        config.load(tmp_path / "list.yaml")


def test_the_configuration_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, t2.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
