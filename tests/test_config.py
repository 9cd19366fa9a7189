"""The configuration is validated whole, every problem is named at once, and nothing is changed that was read."""

from __future__ import annotations

import dataclasses
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from peft import PEFT_TYPE_TO_CONFIG_MAPPING

from t2 import config
from t2.config import peft_keys, roundtrip, rows
from t2.svf import SvfConfig

ROOT = Path(__file__).parents[1]
FILES = {"layout": "gsm8k", "train": "a", "test": "b"}
VISION = {"formats": ["PNG"], "modes": ["RGB"], "max_bytes": 1000, "max_pixels": 1000, "features_mb": 1}
HUB = {**FILES, "hub": "openai/gsm8k", "subset": "main", "revision": "e53f048"}


@pytest.fixture
def raw() -> dict[str, Any]:
    found: dict[str, Any] = roundtrip.values((ROOT / "params.yaml").read_text())
    return found


def problems(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(config.ConfigError) as caught:
        config.parse(raw)
    return caught.value.problems


def where(raw: dict[str, Any]) -> list[str]:
    return [problem.split(":")[0] for problem in problems(raw)]


def put(raw: dict[str, Any], dotted: str, **values: Any) -> dict[str, Any]:
    """Sets keys of the mapping of that dotted name."""
    for part in filter(None, dotted.split(".")):
        raw = raw[part]
    raw.update(values)
    return raw


def use_vllm(raw: dict[str, Any], device: str, **settings: Any) -> None:
    put(raw, "engine", name="vllm")
    put(raw, "engine.vllm", **settings)
    put(raw, "execution", device=device)


def test_the_committed_parameters_are_valid_and_come_back_as_they_were(raw: dict[str, Any]) -> None:
    params = config.load(ROOT / "params.yaml")
    # As JSON 1 and 1.0 differ.
    assert json.dumps(config.dump(params), sort_keys=True) == json.dumps(raw, sort_keys=True)
    assert list(config.dump(params)["systems"]) == list(raw["systems"])


def test_no_field_of_a_row_has_a_default() -> None:
    sections = [kind for _, kind in inspect.getmembers(rows, inspect.isclass) if issubclass(kind, rows.Section)]
    assert len(sections) > 30
    optional = [
        f"{kind.__name__}.{name}"
        for kind in sections
        for name, field in kind.model_fields.items()
        if not field.is_required()
    ]
    assert optional == []


def test_all_problems_are_listed_at_once(raw: dict[str, Any]) -> None:
    put(raw, "recipes.svf.peft", colour=1)  # a key that the method does not have
    put(raw, "recipes.svf", colour=1)  # unknown key
    put(raw, "measure", batch=-1)  # bad value
    del raw["tracking"]  # missing section
    put(raw, "", typo={})  # unknown section
    put(raw, "adapters.svf-math", task="maths")  # a row that is not there
    put(raw, "tasks.code.reward", right=-1.0)  # relation inside a section
    found = problems(raw)
    named = [
        "adapters.svf-math.task",
        "measure.batch",
        "recipes.svf.colour",
        "tasks.code.reward",
        "tracking",
        "typo",
    ]
    assert [problem.split(":")[0] for problem in found] == named
    assert "(got -1)" in found[1]
    assert all(len(problem) < 300 for problem in found)


SAMPLED = {"kind": "accuracy", "temperature": 1.0, "samples": 2}
IA3 = {"peft_type": "IA3", "target_modules": ["q_proj"], "feedforward_modules": []}


def mix_lora(raw: dict[str, Any]) -> None:
    """The few-shot searches, over LoRA's adapters."""
    put(raw, "sets.svf", members=["lora-math", "lora-code", "lora-reasoning"])


def shown(**changes: Any) -> dict[str, Any]:
    """A system that is shown a search's shots."""
    row = {"label": "shown", "base": "main", "strategy": "in_context", "searches": ["math_hard"]}
    return {**row, "tasks": ["math_hard"], "variant": "", **changes}


def best(*systems: str, by: str = "rest", **changes: Any) -> dict[str, Any]:
    """A system that chooses among others."""
    row = {"label": "best, oracle", "base": "main", "strategy": "best", "systems": list(systems), "by": by}
    return {"best": {**row, "variant": "", **changes}}


CHANGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    # References
    (lambda raw: put(raw, "adapters.svf-math", base="maine"), "adapters.svf-math.base"),
    (lambda raw: put(raw, "adapters.svf-math", recipe="svd"), "adapters.svf-math.recipe"),
    (lambda raw: put(raw, "sets.svf", members=["svf-math", "svf-poetry"]), "sets.svf.members"),
    (lambda raw: put(raw, "sets.svf", members=["svf-math", "svf-math"]), "sets.svf.members"),
    (lambda raw: put(raw, "searches.math_hard", set="nobody"), "searches.math_hard.set"),
    (lambda raw: put(raw, "searches.math_hard", budget="all"), "searches.math_hard.budget"),
    (lambda raw: put(raw, "systems.prompt", dispatch="ask"), "systems.prompt.dispatch"),
    (lambda raw: put(raw, "systems.fewshot", searches=["math"]), "systems.fewshot.searches"),
    (lambda raw: put(raw, "systems.math-expert", tasks=["poetry"]), "systems.math-expert.tasks"),
    (lambda raw: put(raw, "score", contrasts=[["svf", "nobody"]]), "score.contrasts"),
    (lambda raw: put(raw, "publish", systems=["nobody"]), "publish.systems"),
    (lambda raw: put(raw, "tasks.dispatch.source", tasks=["math", "poetry"]), "tasks.dispatch.source.tasks"),
    # Rows that refer to each other
    (lambda raw: put(raw, "tasks.dispatch.source", tasks=["math", "dispatch"]), "tasks.dispatch.source.tasks"),
    (
        lambda raw: put(
            raw, "tasks", again={**raw["tasks"]["dispatch"], "source": {"layout": "dispatch", "tasks": ["dispatch"]}}
        ),
        "tasks.again.source.tasks",
    ),
    # Names
    (lambda raw: put(raw, "adapters", **{"svf math": raw["adapters"]["svf-math"]}), "adapters.svf math"),
    (lambda raw: put(raw, "bases", **{"llama3.1": raw["bases"]["control"]}), "bases.llama3.1"),
    (lambda raw: put(raw, "publish", model="two/pass"), "publish.model"),
    # Bases
    (lambda raw: put(raw, "bases.control", label="miniature"), "bases.control.label"),
    (lambda raw: put(raw, "bases.main", path="owner/model"), "bases.main"),
    (lambda raw: put(raw, "bases.main", path="owner/model", revision="main"), "bases.main"),
    (lambda raw: put(raw, "bases.main", quantisation="int3"), "bases.main.quantisation"),
    # Tasks
    (lambda raw: put(raw, "tasks.math", family="other"), "tasks.math.family"),
    (lambda raw: put(raw, "tasks.math", family="code"), "tasks"),
    (lambda raw: put(raw, "tasks.math_hard", family="poetry"), "tasks.math_hard.family"),
    (lambda raw: put(raw, "tasks.math", reward=None), "tasks.math.reward"),
    (lambda raw: put(raw, "tasks.math.reward", wrong=1.0), "tasks.math.reward"),
    (lambda raw: put(raw, "tasks.math.reward", kind="dispatch"), "tasks.math.reward.kind"),
    (lambda raw: put(raw, "tasks.math.reward", stop=[""]), "tasks.math.reward.stop.0"),
    (lambda raw: put(raw, "tasks.math", role="dispatch"), "tasks.math.source.layout"),
    (lambda raw: put(raw, "tasks.math.prompt", user="{question} {options}"), "tasks.math.prompt.user"),
    (lambda raw: put(raw, "tasks.math.prompt", user="no field"), "tasks.math.prompt.user"),
    (lambda raw: put(raw, "tasks.math.prompt", user="{question} \\boxed{"), "tasks.math.prompt.user"),
    (lambda raw: put(raw, "tasks.math.source", train="x.jsonl"), "tasks.math.source.train"),
    (lambda raw: put(raw, "tasks.math", source={"layout": "gsm8k", "train": "a"}), "tasks.math.source.test"),
    (lambda raw: put(raw, "tasks.math", source={**FILES, "hub": "openai/gsm8k"}), "tasks.math.source.revision"),
    (lambda raw: put(raw, "tasks.math", source={**FILES, "revision": "e53f048"}), "tasks.math.source.revision"),
    (lambda raw: put(raw, "tasks.math", source={**FILES, "layout": "poems"}), "tasks.math.source.layout"),
    # Recipes
    (lambda raw: put(raw, "recipes.svf.peft", r=16), "recipes.svf.peft.r"),
    (lambda raw: put(raw, "recipes.lora_next_token.peft", rank=16), "recipes.lora_next_token.peft.rank"),
    (lambda raw: put(raw, "recipes.svf.peft", layers_to_transform=[0]), "recipes.svf.peft.layers_to_transform"),
    (lambda raw: put(raw, "recipes.svf.peft", peft_type="SVD"), "recipes.svf.peft.peft_type"),
    (lambda raw: put(raw, "recipes.lora_next_token", layers="third"), "recipes.lora_next_token.layers"),
    (lambda raw: put(raw, "recipes.lora_next_token", layers=[-1]), "recipes.lora_next_token.layers.0"),
    (lambda raw: put(raw, "recipes.svf", seeds=[1, 1]), "recipes.svf.seeds"),
    (lambda raw: put(raw, "recipes.lora_next_token.train", kl=0.1), "recipes.lora_next_token.train.kl"),
    (lambda raw: put(raw, "recipes.svf.train", lr="fast"), "recipes.svf.train.lr"),
    (lambda raw: put(raw, "recipes.svf.train", steps=True), "recipes.svf.train.steps"),
    (lambda raw: put(raw, "training", warmup_steps=20), "training.warmup_steps"),
    (lambda raw: put(raw, "recipes.svf.train", samples=3), "recipes.svf.train.samples"),
    (
        lambda raw: [put(raw, "training", temperature=0.0), put(raw, "recipes.svf.train", samples=4)],
        "recipes.svf.train.samples",
    ),
    (lambda raw: put(raw, "training", baseline="group"), "recipes.svf.train.samples"),
    (
        lambda raw: put(raw, "recipes.lora_policy_gradient.peft", lora_dropout=0.05),
        "recipes.lora_policy_gradient.peft.lora_dropout",
    ),
    (lambda raw: put(raw, "recipes.svf.train", objective="expected_reward"), "adapters.svf-math.recipe"),
    # Adapters
    (lambda raw: put(raw, "adapters", again=raw["adapters"]["svf-math"]), "adapters.again"),
    (lambda raw: put(raw, "adapters.svf-math", task="math_hard"), "adapters.svf-math.task"),
    (lambda raw: put(raw, "tasks.math.sizes", train=0), "adapters.svf-math.task"),
    (lambda raw: put(raw, "bases.main", adapt=["q_proj"]), "adapters.svf-math.recipe"),
    (lambda raw: put(raw, "bases.main", layers="half"), "adapters.svf-math.recipe"),
    (lambda raw: put(raw, "bases.main", layers=[0, 1]), "adapters.svf-math.recipe"),
    # Sets and searches
    (lambda raw: put(raw, "recipes.classifier", seeds=[0]), "sets.published"),
    (lambda raw: put(raw, "recipes.classifier", seeds=[0]), "systems.classifier"),
    (lambda raw: put(raw, "tasks.math_hard.sizes", shots=9), "searches.math_hard"),
    (lambda raw: put(raw, "searches.math_hard", task="other"), "searches.math_hard.task"),
    (lambda raw: put(raw, "sets.svf", members=["svf-math", "lora-math"]), "searches.math_hard.set"),
    (lambda raw: [mix_lora(raw), put(raw, "recipes.lora_next_token.peft", use_dora=True)], "searches.math_hard.set"),
    (lambda raw: [mix_lora(raw), put(raw, "recipes.lora_next_token", peft=IA3)], "searches.math_hard.set"),
    (lambda raw: [mix_lora(raw), put(raw, "budgets.cem", granularity="layer")], "searches.math_hard.budget"),
    (lambda raw: [mix_lora(raw), put(raw, "budgets.cem", form="free")], "searches.math_hard.budget"),
    (lambda raw: [mix_lora(raw), put(raw, "budgets.cem", include_base=True)], "searches.math_hard.budget"),
    (lambda raw: [mix_lora(raw), put(raw, "budgets.cem", objective=SAMPLED)], "searches.math_hard.budget"),
    (lambda raw: put(raw, "budgets.cem", granularity="head"), "budgets.cem.granularity"),
    # Systems
    (lambda raw: put(raw, "systems.math-expert", strategy="guess"), "systems.math-expert"),
    (lambda raw: put(raw, "systems.math-expert", set="svf"), "systems.math-expert.set"),
    (lambda raw: raw["systems"]["math-expert"].pop("adapter"), "systems.math-expert.adapter"),
    (lambda raw: put(raw, "systems.uniform", label="SVF"), "systems.uniform.label"),
    (lambda raw: put(raw, "systems.lopg", variant="next_token"), "systems.lopg.variant"),
    (lambda raw: put(raw, "systems", again={**raw["systems"]["base"], "label": "again"}), "systems.again.variant"),
    (lambda raw: put(raw, "systems.code-expert", variant="math"), "systems.code-expert.variant"),
    (lambda raw: put(raw, "systems.lora", base="control"), "systems.lora.base"),
    (lambda raw: put(raw, "recipes.svf", peft=IA3), "systems.uniform.set"),
    (lambda raw: put(raw, "systems.prompt", set="lora"), "systems.prompt.set"),
    (lambda raw: put(raw, "sets.svf", members=["svf-math", "lora-code"]), "systems.svf.set"),
    (lambda raw: put(raw, "sets.svf", members=["svf-math", "control-math"]), "systems.svf.set"),
    (lambda raw: put(raw, "sets.svf", members=["svf-math", "control-math"]), "systems.prompt.set"),
    (lambda raw: put(raw, "systems.svf", set="published"), "systems.svf.set"),
    (lambda raw: put(raw, "systems.classifier", adapter="svf-math"), "systems.classifier.adapter"),
    (lambda raw: put(raw, "systems.classifier", dispatch="math"), "systems.classifier.dispatch"),
    (lambda raw: put(raw, "systems.prompt", reading="choice"), "systems.prompt.reading"),
    (lambda raw: put(raw, "systems.svf", tasks=["other"]), "systems.svf.tasks"),
    (
        lambda raw: [put(raw, "sets.lora", members=["lora-math"]), put(raw, "systems.lora", tasks=["code"])],
        "systems.lora.tasks",
    ),
    (lambda raw: put(raw, "systems.soft", temperature="hot"), "systems.soft.temperature"),
    (lambda raw: put(raw, "systems.soft", set="control"), "systems.soft.temperature"),
    (lambda raw: put(raw, "temperatures.soft", dispatch="math"), "temperatures.soft.dispatch"),
    (lambda raw: put(raw, "temperatures.soft", tasks=["math_hard"]), "temperatures.soft.tasks"),
    (lambda raw: put(raw, "temperatures.soft", tasks=["math", "math"]), "temperatures.soft.tasks"),
    (lambda raw: put(raw, "temperatures.soft", set="lora"), "temperatures.soft.set"),
    (lambda raw: put(raw, "temperatures.soft", values=[]), "temperatures.soft.values"),
    (lambda raw: put(raw, "temperatures", math_hard=raw["temperatures"]["soft"]), "temperatures.math_hard"),
    (
        lambda raw: put(raw, "tasks.math", sizes={**raw["tasks"]["math"]["sizes"], "valid": 0}),
        "temperatures.soft.tasks",
    ),
    (lambda raw: put(raw, "systems.fewshot", tasks="all"), "systems.fewshot.tasks"),
    (lambda raw: put(raw, "systems.fewshot", tasks=["math"]), "systems.fewshot.tasks"),
    (lambda raw: put(raw, "systems.fewshot", set="published"), "systems.fewshot.searches"),
    (lambda raw: put(raw, "systems", shown=shown(base="control")), "systems.shown.searches"),
    (lambda raw: put(raw, "systems", shown=shown(tasks=["math"])), "systems.shown.tasks"),
    (lambda raw: put(raw, "systems", shown=shown(searches=["nothing"])), "systems.shown.searches"),
    (lambda raw: put(raw, "systems", **best("fewshot", "nobody")), "systems.best.systems"),
    (lambda raw: put(raw, "systems", **best("fewshot")), "systems.best.systems"),
    (lambda raw: put(raw, "systems", **best("fewshot", "random", by="luck")), "systems.best.by"),
    (lambda raw: put(raw, "systems", **best("fewshot", "random", by="test", label="best")), "systems.best.label"),
    (lambda raw: put(raw, "systems.oracle", label="LoRA, best"), "systems.oracle.label"),
    (lambda raw: put(raw, "systems", **best("svf", "base", by="test")), "systems.best.systems"),
    (lambda raw: put(raw, "systems", **best("svf", "lopg", by="test")), "systems.best"),
    (lambda raw: put(raw, "systems", **best("svf", "fewshot", by="test")), "systems.best.systems"),
    (lambda raw: put(raw, "systems", **best("fewshot", "random", base="control")), "systems.best.systems"),
    (lambda raw: put(raw, "systems", **best("svf", "uniform")), "systems.best.by"),
    (
        lambda raw: [put(raw, "systems", **best("fewshot", "random")), put(raw, "budgets.random", shots=9)],
        "systems.best.systems",
    ),
    (
        lambda raw: [put(raw, "systems", **best("fewshot", "random", by="test")), put(raw, "budgets.random", draws=1)],
        "systems.best.systems",
    ),
    (
        lambda raw: [put(raw, "systems", **best("fewshot", "random")), put(raw, "tasks.math_hard.sizes", shots=10)],
        "systems.best.by",
    ),
    # The others
    (lambda raw: put(raw, "publish", set="svf"), "publish.set"),
    (lambda raw: put(raw, "publish", systems=["svf", "control-svf"]), "publish.systems"),
    (lambda raw: put(raw, "publish", systems=["lora"]), "publish.systems"),
    (lambda raw: put(raw, "sandbox", symbolic_seconds=0), "sandbox.symbolic_seconds"),
    (lambda raw: put(raw, "engine.vllm", tensor_parallel=0), "engine.vllm.tensor_parallel"),
    (lambda raw: use_vllm(raw, device="cuda", tensor_parallel=2), "engine.vllm.tensor_parallel"),
    (lambda raw: put(raw, "engine.vllm", sleep="deeply"), "engine.vllm.sleep"),
    (lambda raw: use_vllm(raw, device="cpu", sleep=True), "engine.vllm.sleep"),
    (lambda raw: use_vllm(raw, device="cuda", kv_cache_gb=None), "engine.vllm.gpu_memory_utilisation"),
]


@pytest.mark.parametrize(("change", "named"), CHANGES)
def test_each_value_and_each_relation_is_checked(
    raw: dict[str, Any], change: Callable[[dict[str, Any]], Any], named: str
) -> None:
    change(raw)
    found = problems(raw)
    assert named in [problem.split(":")[0] for problem in found]
    assert all(len(problem) < 350 and "\n" not in problem for problem in found)


def test_what_is_wrong_with_one_of_several_forms_is_said_once(raw: dict[str, Any]) -> None:
    put(raw, "tasks.math", source={**FILES, "test": 3})
    put(raw, "recipes.lora_next_token", layers=["first"])
    put(raw, "systems.math-expert", label=3)
    assert where(raw) == ["recipes.lora_next_token.layers.0", "systems.math-expert.label", "tasks.math.source.test"]


def test_svf_moves_to_another_base(raw: dict[str, Any]) -> None:
    moved = {
        "label": "moved",
        "base": "control",
        "strategy": "uniform",
        "set": "svf",
        "budget": None,
        "tasks": "all",
        "variant": "moved",
    }
    put(raw, "systems", moved=moved)
    assert config.parse(raw).systems["moved"].base == "control"


def test_the_best_of_searches_is_chosen_by_what_they_have_not_seen_or_as_an_oracle(raw: dict[str, Any]) -> None:
    put(raw, "systems", **best("fewshot", "random", label="best"))
    put(raw, "systems", oracle_of_all=best("svf", "lora", by="test", variant="all")["best"])
    params = config.parse(raw)
    assert params.key_of("best") == ("svf", "best", "")
    assert params.key_of("oracle_of_all") == ("lora+svf", "best", "all")
    assert params.systems["best"].tasks == []


def test_bases_alone_are_measured_where_nothing_is_trained(raw: dict[str, Any]) -> None:
    folder = roundtrip.values((ROOT / "reports/yardstick/params.yaml").read_text())
    assert config.parse(folder, main=config.parse(raw)).adapters == {}
    folder["tasks"]["math"] = raw["tasks"]["math"]
    with pytest.raises(
        config.ConfigError, match=r"tasks\.humaneval\.family: 'code' is no trained task's; they have math"
    ):
        config.parse(folder, main=config.parse(raw))


def test_lora_is_mixed_beside_svf_and_shots_are_shown(raw: dict[str, Any]) -> None:
    put(raw, "searches", added={**raw["searches"]["math_hard"], "set": "lora"})
    mixed = {"base": "main", "set": "lora", "tasks": ["math_hard"]}
    put(raw, "systems", found={**mixed, "label": "f", "strategy": "fewshot", "searches": ["added"], "variant": ""})
    put(raw, "systems", equal={**mixed, "label": "e", "strategy": "uniform", "budget": "cem", "variant": ""})
    put(raw, "systems", shown=shown())
    params = config.parse(raw)
    assert params.key_of("found") == ("lora", "fewshot", "")
    assert params.key_of("shown") == ("in_context", "in_context", "")
    assert params.adapters_of("shown") == []


def test_layers_that_only_the_model_can_tell_apart_are_left_to_the_stage(raw: dict[str, Any]) -> None:
    for recipe in ("svf", "svf_control", "classifier"):
        put(raw, f"recipes.{recipe}", layers=[3])
    put(raw, "bases.main", layers="half")
    put(raw, "bases.control", layers=[2, 3])
    assert config.parse(raw).bases["control"].layers == [2, 3]


@pytest.mark.parametrize("method", ["LORA", "IA3", "VERA", "SVF"])
def test_the_keys_that_are_read_from_source_are_those_of_the_installed_classes(method: str) -> None:
    installed = {
        **{kind.value: configuration for kind, configuration in PEFT_TYPE_TO_CONFIG_MAPPING.items()},
        "SVF": SvfConfig,
    }
    fields = {field.name for field in dataclasses.fields(installed[method]) if field.init}
    assert peft_keys.config_keys(method) == fields


def test_names_that_are_no_method_of_peft_have_no_keys() -> None:
    assert [peft_keys.config_keys(name) for name in ("lora", "SVD", "None", "MIXED")] == [None] * 4


def test_another_method_is_a_recipe(raw: dict[str, Any]) -> None:
    train = {"objective": "next_token", "steps": 20, "batch": 8, "samples": 1, "lr": 0.005, "clip": 1.0, "kl": 0.0}
    peft = {"peft_type": "IA3", "target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}
    put(raw, "recipes", ia3={"peft": peft, "layers": "all", "seeds": [0], "train": train})
    assert config.parse(raw).recipes["ia3"].method == "ia3"
    put(raw, "recipes.ia3", layers="half")
    assert problems(raw) == ["recipes.ia3.layers: IA3 adapts all layers; set it to all"]


def test_tensor_parallelism_and_sleep_are_allowed_where_they_can_be_had(raw: dict[str, Any]) -> None:
    use_vllm(raw, device="cuda", experts="folded", tensor_parallel=4, sleep=True)
    found = config.parse(raw).engine.vllm
    assert (found.tensor_parallel, found.sleep) == (4, True)


@pytest.mark.parametrize("name", ["main", "control"])
def test_a_quantised_base_runs_with_transformers_only(raw: dict[str, Any], name: str) -> None:
    for kind in ("int8", "nf4"):
        put(raw, f"bases.{name}", quantisation=kind)
        assert config.parse(raw).bases[name].quantisation == kind
    put(raw, "engine", name="vllm")
    put(raw, "execution", workers=1)
    put(raw, "measure", colour=1)
    assert where(raw) == [f"bases.{name}.quantisation", "measure.colour"]


def test_a_base_that_sees_runs_with_transformers_only(raw: dict[str, Any]) -> None:
    put(raw, "bases.main", vision=VISION)
    assert isinstance(config.parse(raw).bases["main"], rows.SeeingBase)
    use_vllm(raw, device="cuda")
    assert problems(raw) == ["bases.main.vision: vLLM shows no images here; set engine.name to 'hf', which does"]


def test_rows_come_from_files_or_from_a_revision_on_the_hub(raw: dict[str, Any]) -> None:
    for source, kind in ((FILES, rows.Files), (HUB, rows.Hub)):
        put(raw, "tasks.math", source=source)
        found = config.parse(raw).tasks["math"].source
        assert type(found) is kind and found.model_dump() == source


def test_a_missing_file_broken_yaml_and_a_key_twice_say_so(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="no such file"):
        config.load(tmp_path / "absent.yaml")
    for text, message in (("a: [", "not YAML"), ("- a", "expected a mapping"), ("a: 1\na: 2\n", "duplicate key")):
        (tmp_path / "broken.yaml").write_text(text)
        with pytest.raises(config.ConfigError, match=message):
            config.load(tmp_path / "broken.yaml")


def test_numbers_are_read_as_dvc_reads_and_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    # What an override `lr=5e-5` leaves in the file; PyYAML would take it for a word.
    path.write_text(text.replace("lr: 0.005", "lr: 5e-05", 1))
    assert config.load(path).recipes["svf"].train.lr == 5e-5


def test_the_configuration_needs_neither_torch_nor_peft() -> None:
    code = "import sys; from t2 import config; config.load(); sys.exit(bool({'torch', 'peft'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
