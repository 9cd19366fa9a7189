"""``t2 ask`` on a finished project."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from finished_project import ALPHA, TEMPERATURE
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from t2.adaptation.first_pass import Ask, dispatch, loglikelihoods
from t2.cli import main
from t2.config import load
from t2.engine.base import Sampling
from t2.engine.hf import HfEngine
from t2.svf import Expert, SvfConfig, attach, load_expert, mix, save_expert, stack

ROOT = Path(__file__).parents[2]
PROMPT = "Tom has 3 apples and buys 4 more. How many?"


MEMBERS = ("svf-math", "svf-code", "svf-reasoning")
SEED = 1
"""The seed whose experts are best on validation items, taken together."""


@pytest.fixture
def engine(project: Path) -> HfEngine:
    config = SvfConfig(target_modules=list(load_expert("data/adapters/svf-math/seed-0").z))
    model = AutoModelForCausalLM.from_pretrained("base")
    return HfEngine(attach(model, config), AutoTokenizer.from_pretrained("base"), batch_size=8)


def reply(engine: HfEngine, z: dict[str, torch.Tensor]) -> str:
    return engine.generate([PROMPT], Sampling(12), experts=stack([z]), rows=[0])[0].text


def test_a_found_mix_answers_and_is_named(engine: HfEngine, t2) -> None:
    arguments = ("ask", PROMPT, "--system", "fewshot", "--task", "math_hard", "--max-new-tokens", 12)
    answer = json.loads(t2(*arguments, "--json").stdout)
    experts = [load_expert(f"data/adapters/{name}/seed-{SEED}").z for name in MEMBERS]
    assert answer["text"] == reply(engine, mix(experts, torch.tensor([0.9, -0.2, 0.4])))
    weights = dict(part.split("=") for part in answer["mixture"].split(","))
    effective = {name: alpha + (1 - sum(ALPHA.values())) / 3 for name, alpha in ALPHA.items()}
    assert {name: float(weight) for name, weight in weights.items()} == pytest.approx(effective, abs=1e-6)
    assert answer["seed"] == SEED and "math_hard" in answer["why"]
    spoken = t2(*arguments)
    assert spoken.stdout == answer["text"] + "\n"
    assert f"— {answer['mixture']} (seed 1): few-shot search found it for math_hard" in spoken.stderr


def test_the_uniform_mix_answers(engine: HfEngine, t2) -> None:
    experts = [load_expert(f"data/adapters/{name}/seed-{SEED}").z for name in MEMBERS]
    answer = json.loads(t2("ask", PROMPT, "--system", "uniform", "--max-new-tokens", 12, "--json").stdout)
    assert answer["text"] == reply(engine, mix(experts, torch.full((3,), 1 / 3)))


@pytest.fixture
def folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment folder of a copy of the project, of whose adapter git has kept the set alone."""
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True)
    monkeypatch.chdir(copy)
    rows = {name: {"from": "main"} for name in yaml.safe_load(Path("params.yaml").read_text())}
    adapter = {"base": "main", "recipe": "svf", "task": "math"}
    system = {"label": "SVF", "base": "main", "strategy": "own", "set": "alone", "tasks": ["math"], "variant": ""}
    rows |= {
        "bases": {"main": {"from": "main"}},
        "tasks": {"math": {"from": "main"}},
        "recipes": {"svf": {"from": "main"}},
        "adapters": {"mine": adapter},
        "sets": {"alone": {"members": ["mine"]}},
        "budgets": {},
        "searches": {},
        "temperatures": {},
        "systems": {"bare": {**system, "label": "base", "strategy": "none"}, "mine": system},
        "score": {"contrasts": []},
    }
    del rows["systems"]["bare"]["set"]
    found = Path("reports", "found")
    kept = found / "data" / "sets" / "alone"
    shutil.copytree(Path("data", "adapters", "svf-math"), kept / "mine")
    about = json.loads((kept / "mine" / "adapter.json").read_text())
    (kept / "mine" / "adapter.json").write_text(json.dumps(about | {"name": "mine"}))
    (kept / "members.json").write_text(json.dumps(["mine"]))
    (found / "params.yaml").write_text(yaml.safe_dump(rows, sort_keys=False))
    return found


def test_the_expert_of_a_folder_answers_alone(engine: HfEngine, folder: Path, t2) -> None:
    answer = json.loads(t2("ask", PROMPT, "--folder", folder, "--max-new-tokens", 12, "--json").stdout)
    assert (answer["system"], answer["mixture"], answer["seed"]) == ("mine", "mine", SEED)
    assert answer["text"] == reply(engine, load_expert(f"data/adapters/svf-math/seed-{SEED}").z)


def test_an_adapter_that_git_keeps_in_a_set_answers_alone(engine: HfEngine, folder: Path, t2) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    single = {"label": "single", "base": "main", "strategy": "adapter", "adapter": "mine", "tasks": ["math"]}
    params["systems"]["single"] = {**single, "variant": "single"}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    asked = ("--folder", folder, "--system", "single", "--max-new-tokens", 12, "--json")
    answer = json.loads(t2("ask", PROMPT, *asked).stdout)
    assert (answer["mixture"], answer["seed"]) == ("mine", SEED)
    assert answer["text"] == reply(engine, load_expert(f"data/adapters/svf-math/seed-{SEED}").z)


def test_a_mix_that_a_folder_searched_answers(engine: HfEngine, folder: Path, t2) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    for section, row in (("tasks", "math_hard"), ("budgets", "cem")):
        params[section][row] = {"from": "main"}
    params["searches"] = {"again": {"base": "main", "set": "alone", "task": "math_hard", "budget": "cem"}}
    found = {"label": "found", "base": "main", "strategy": "fewshot", "set": "alone", "searches": ["again"]}
    params["systems"]["found"] = {**found, "tasks": ["math_hard"], "variant": ""}
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    outcome = folder / "data" / "searches" / "again" / f"seed-{SEED}" / "draw-0" / "alpha.json"
    outcome.parent.mkdir(parents=True)
    outcome.write_text(json.dumps({"alpha": {"mine": 1.0}, "form": "normalised", "renormalise": True, "seed": SEED}))
    asked = ("--folder", folder, "--system", "found", "--task", "math_hard", "--max-new-tokens", 12, "--json")
    answer = json.loads(t2("ask", PROMPT, *asked).stdout)
    assert answer["text"] == reply(engine, load_expert(f"data/adapters/svf-math/seed-{SEED}").z)
    assert "found it for math_hard" in answer["why"]


def test_a_folder_in_which_nothing_answers_says_what_there_is(folder: Path, monkeypatch) -> None:
    params = yaml.safe_load((folder / "params.yaml").read_text())
    del params["systems"]["mine"]
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    monkeypatch.setattr("sys.argv", ["t2", "ask", PROMPT, "--folder", str(folder)])
    with pytest.raises(SystemExit, match=r"^t2: name a system that answers, and for few-shot search a task: bare$"):
        main()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("data/bases/qwen2.5-coder-0.5b", "`t2 base qwen2.5-coder-0.5b` makes it"),
        ("data/bases/mine", "bring the model there"),
    ],
)
def test_a_base_that_is_not_here_is_named_with_what_makes_it(folder: Path, path: str, said: str, monkeypatch) -> None:
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("path: base", f"path: {path}"))
    monkeypatch.setattr("sys.argv", ["t2", "ask", PROMPT, "--folder", str(folder)])
    with pytest.raises(SystemExit, match=f"^t2: the base model {path} is not here; {said}"):
        main()


def test_the_expert_of_a_folder_is_refused_on_another_base(folder: Path, monkeypatch) -> None:
    seed = folder / "data" / "sets" / "alone" / "mine" / f"seed-{SEED}"
    expert = load_expert(seed)
    save_expert(Expert(expert.z, expert.provenance | {"basis_fingerprint": "0" * 64}), seed)
    monkeypatch.setattr("sys.argv", ["t2", "ask", PROMPT, "--folder", str(folder)])
    with pytest.raises(SystemExit, match=f"^t2: {seed}: .*made for other base weights"):
        main()


@pytest.mark.parametrize("system", ["classifier", "prompt"])
def test_the_first_pass_decides_who_answers(engine: HfEngine, system: str, t2) -> None:
    answer = json.loads(t2("ask", PROMPT, "--system", system, "--max-new-tokens", 12, "--json").stdout)
    classifier = load_expert(f"data/adapters/classifier/seed-{SEED}").z if system == "classifier" else None
    task = load().tasks["dispatch"]
    ask = Ask(task.prompt, ["math", "code", "reasoning", "other"], max_new_tokens=4, reading="likelihood")
    (called,) = dispatch(engine, [PROMPT], ask, classifier=classifier)
    assert (answer["mixture"], answer["system"]) == ("base" if called == "other" else f"svf-{called}", system)
    assert f"called the prompt {called}" in answer["why"]
    assert ("classifier expert" if system == "classifier" else "base model") in answer["why"]
    z = {} if called == "other" else load_expert(f"data/adapters/svf-{called}/seed-{SEED}").z
    assert answer["text"] == reply(engine, z)


def test_soft_dispatch_mixes_by_what_the_first_pass_believes(engine: HfEngine, t2) -> None:
    answer = json.loads(t2("ask", PROMPT, "--system", "soft", "--max-new-tokens", 12, "--json").stdout)
    ask = Ask(load().tasks["dispatch"].prompt, ["math", "code", "reasoning", "other"], 4, "likelihood")
    (logliks,) = loglikelihoods(engine, [PROMPT], ask)
    belief = (torch.tensor(logliks, dtype=torch.float64) / TEMPERATURE).softmax(0)
    assert belief.min() > 0.01  # else the mix is as good as one expert
    experts = [load_expert(f"data/adapters/{name}/seed-{SEED}").z for name in MEMBERS]
    unscaled = {module: torch.ones_like(z) for module, z in experts[0].items()}
    assert answer["text"] == reply(engine, mix([*experts, unscaled], belief))
    weights = dict(part.split("=") for part in answer["mixture"].split(","))
    expected = dict(zip([*MEMBERS, "base"], belief.tolist(), strict=True))
    assert {name: float(weight) for name, weight in weights.items()} == pytest.approx(expected, abs=1e-3)


def test_soft_dispatch_without_a_temperature_says_what_finds_one(t2, monkeypatch) -> None:
    monkeypatch.setattr("t2.stages.paths.temperature", lambda name, seed: Path("data/searches/none"))
    with pytest.raises(ValueError, match="no temperature was found by search 'soft' for seed 1; `make repro` searches"):
        t2("ask", PROMPT, "--system", "soft")


def test_a_named_category_is_answered_by_its_expert(engine: HfEngine, t2, monkeypatch) -> None:
    """The first pass is scripted: no model of a test names categories."""
    monkeypatch.setattr("t2.adaptation.strategies.dispatch", lambda engine, prompts, *_, **__: ["math"] * len(prompts))
    spoken = t2("ask", PROMPT, "--max-new-tokens", 12)
    assert spoken.stdout == reply(engine, load_expert(f"data/adapters/svf-math/seed-{SEED}").z) + "\n"
    assert "— svf-math (seed 1): the classifier expert classifier called the prompt math (" in spoken.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--system", "fewshot"], "needs the task whose mix answers, got ''; there is one for code_hard, math_hard"),
        (["--system", "fewshot", "--task", "math"], "got 'math'; there is one for code_hard, math_hard"),
        (["--task", "math_hard"], "'math_hard' names a mix that was found for it, which system 'classifier' has none"),
        (["--system", "sum"], "there is no system 'sum'; params.yaml has base, lora"),
        (["--system", "svf"], "'own', which does not choose an expert for a prompt; name a system that does"),
        (["--max-new-tokens", "250"], "leaves no room for a reply"),
    ],
)
def test_what_is_refused_is_said_in_one_line(project: Path, arguments: list[str], message: str, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["t2", "ask", PROMPT, *arguments])
    with pytest.raises(SystemExit, match=f"^t2: .*{message}"):
        main()


@pytest.mark.parametrize("which", ["svf-math/seed-1", "svf-reasoning/seed-1", "classifier/seed-1"])
@pytest.mark.parametrize("fault", ["another base", "not finite"])
def test_an_expert_that_is_not_the_bases_or_not_finite_is_refused_by_name(
    project: Path, which: str, fault: str, tmp_path: Path, monkeypatch
) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True)
    monkeypatch.chdir(copy)
    folder = Path("data", "adapters", which)
    expert = load_expert(folder)
    if fault == "another base":
        save_expert(Expert(expert.z, expert.provenance | {"basis_fingerprint": "0" * 64}), folder)
    else:
        file = folder / "adapter_model.safetensors"
        tensors = load_file(file)
        next(iter(tensors.values()))[0] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"checksum": None}))
    monkeypatch.setattr("sys.argv", ["t2", "ask", PROMPT])
    said = "made for other base weights" if fault == "another base" else "not finite"
    with pytest.raises(SystemExit, match=f"^t2: {folder}: .*{said}"):
        main()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is no whole JSON file"),
        ('{"alpha": {"svf-math": 0.9', "is no whole JSON file"),
        ("[]", "holds a JSON list; expected an object"),
        ('{"alpha": {}, "seed": 1}', "is no outcome of a search, it lacks form, renormalise; `dvc repro`"),
        ("version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "export"])
def test_a_damaged_mix_is_refused_by_the_name_of_its_file(
    project: Path, command: str, content: str, message: str, tmp_path: Path, monkeypatch
) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy, symlinks=True)
    monkeypatch.chdir(copy)
    (file,) = Path("data", "searches", "math_hard").rglob("alpha.json")
    file.write_text(content)
    asked = ["ask", PROMPT, "--system", "fewshot", "--task", "math_hard"]
    exported = ["expert", "export", "--out", "out", "--search", "math_hard"]
    monkeypatch.setattr("sys.argv", ["t2", *(asked if command == "ask" else exported)])
    with pytest.raises(SystemExit, match=f"^t2: {file} {message}"):
        main()


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "t2", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_an_argument_that_is_no_unicode_text_is_refused_in_one_line(project: Path, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["t2", "ask", os.fsdecode(b"caf\xe9")])
    with pytest.raises(SystemExit, match=r"^t2: no Unicode text: half a surrogate pair, U\+DCE9, in 'caf"):
        main()


def test_a_project_without_experts_says_what_to_do(project: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "ask", "Hello?")
    assert done.returncode == 1 and done.stderr.startswith("t2: params.yaml is not a valid configuration")
    assert "run from the project's root" in done.stderr and "Traceback" not in done.stderr
    (tmp_path / "params.yaml").symlink_to(project / "params.yaml")
    done = run(tmp_path, "ask", "Hello?")
    said = "t2: there is no data/adapters/svf-math/adapter.json; `dvc repro train@svf-math` makes it"
    assert done.returncode == 1 and done.stderr.startswith(said)


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; import t2.cli; print({'torch', 'transformers', 'mlflow', 'pandas'} & sys.modules.keys())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    start = time.perf_counter()
    done = run(tmp_path, "--help")
    assert done.returncode == 0 and "ask" in done.stdout and "expert" in done.stdout
    assert time.perf_counter() - start < 5
