"""``t2 expert`` on a finished project."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from finished_project import write_found
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from t2.cli import expert, main
from t2.svf import BasisCache, Mixture, base_expert, compare, load_expert, mix, save_expert


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits


def base() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained("base")


def svf(z: dict[str, Tensor], folder: Path) -> Tensor:
    expert = load_expert("data/adapters/svf-math/seed-0")
    save_expert(type(expert)(z, expert.provenance), folder)
    return logits(PeftModel.from_pretrained(base(), folder))


def close(first: Tensor, second: Tensor) -> bool:
    return bool((first - second).abs().max() <= 1e-4 * second.abs().max())


def test_list(project: Path, t2) -> None:
    rows = json.loads(t2("expert", "list", "--json").output)
    assert [row["name"] for row in rows] == [
        f"{name}/seed-{seed}" for name in ("svf-math", "svf-code", "svf-reasoning", "classifier") for seed in range(3)
    ]
    z = torch.cat(list(load_expert("data/adapters/svf-math/seed-1").z.values()))
    found = rows[1]
    assert (found["task"], found["seed"], found["step"], found["valid_score"]) == ("math", 1, 10, 0.75)
    assert found["folder"] == "data/adapters/svf-math/seed-1"
    assert found["mean"] == pytest.approx(z.mean().item(), abs=1e-6)
    assert found["change"] == pytest.approx((z - 1).abs().mean().item(), abs=1e-6)
    text = t2("expert", "list").output
    assert "svf-math/seed-1" in text and "0.75" in text and "valid score" in text


def test_show(project: Path, t2) -> None:
    shown = json.loads(t2("expert", "show", "svf-math", "--json").output)
    assert (shown["name"], shown["task"], shown["seed"]) == ("svf-math/seed-1", "math", 1)
    z = load_expert("data/adapters/svf-math/seed-1").z
    assert {row["name"] for row in shown["matrices"]} == z.keys() and len(z) == 14
    row = next(row for row in shown["matrices"] if row["name"] == "model.layers.1.mlp.up_proj")
    values = z[row["name"]]
    assert (row["layer"], row["module"], row["size"]) == (1, "up_proj", 32)
    assert (row["min"], row["max"]) == (values.min().item(), values.max().item())
    text = t2("expert", "show", "svf-math").output
    assert "data/adapters/svf-math/seed-1" in text and text.count("up_proj") == 2


def test_diff(project: Path, t2) -> None:
    rows = {row["module"]: row for row in json.loads(t2("expert", "diff", "svf-math", "svf-code", "--json").output)}
    first, second = (load_expert(f"data/adapters/{name}").z for name in ("svf-math/seed-1", "svf-code/seed-0"))
    assert len(rows) == 8 and rows["all"]["size"] == sum(map(len, first.values()))
    assert rows["all"]["cosine"] == pytest.approx(compare(first, second))
    names = [name for name in first if name.endswith("up_proj")]
    a, b = (torch.cat([z[name] for name in names]) for z in (first, second))
    assert rows["up_proj"]["correlation"] == pytest.approx(torch.corrcoef(torch.stack([a, b]))[0, 1].item(), abs=1e-5)
    assert rows["up_proj"]["distance"] == pytest.approx((a - b).abs().mean().item(), abs=1e-6)
    same = json.loads(t2("expert", "diff", "svf-math", "svf-math/seed-1", "--json").output)[-1]
    assert same["cosine"] == pytest.approx(1) and same["distance"] == 0
    assert "svf-math/seed-1 and svf-code/seed-0" in t2("expert", "diff", "svf-math", "svf-code").output


def test_export_of_an_expert_as_a_checkpoint(project: Path, tmp_path: Path, t2) -> None:
    out = tmp_path / "out"
    assert t2("expert", "export", "svf-math", "--out", out).output.strip() == str(out)
    expected = svf(load_expert("data/adapters/svf-math/seed-1").z, tmp_path / "svf")
    assert close(logits(AutoModelForCausalLM.from_pretrained(out)), expected)
    assert not close(logits(base()), expected)
    about = json.loads((out / "export.json").read_text())
    assert about["experts"] == {"svf-math/seed-1": "data/adapters/svf-math/seed-1"}
    assert about["base_model_name_or_path"] == "base"


def test_export_of_a_mix_as_a_lora(project: Path, tmp_path: Path, t2) -> None:
    arguments = ("svf-math/seed-0=0.7", "svf-code/seed-0=0.1", "base=-0.1", "--format", "lora")
    exact = json.loads(t2("expert", "export", *arguments, "--out", tmp_path / "out", "--json").output)
    assert exact["rank"] == 32 and all(row["share"] == 0 for row in exact["discarded"])
    parts = [load_expert(f"data/adapters/{name}").z for name in ("svf-math/seed-0", "svf-code/seed-0")]
    parts.append({name: torch.ones_like(z) for name, z in parts[0].items()})
    expected = svf(mix(parts, torch.tensor([0.7, 0.1, -0.1])), tmp_path / "svf")
    assert close(logits(PeftModel.from_pretrained(base(), tmp_path / "out")), expected)

    text = t2("expert", "export", *arguments, "--rank", 4, "--out", tmp_path / "thin").output
    rows = json.loads((tmp_path / "thin" / "export.json").read_text())["discarded"]
    assert [row["layer"] for row in rows] == [0, 1, None] and all(0 < row["share"] < 1 for row in rows)
    assert f"{rows[-1]['share']:.4g}" in text and "all" in text
    assert math.hypot(rows[0]["change"], rows[1]["change"]) == pytest.approx(rows[2]["change"])


def test_export_of_a_found_mix_takes_the_experts_that_it_was_found_for(project: Path, tmp_path: Path, t2) -> None:
    t2("expert", "export", "--search", "math_hard", "--out", tmp_path / "out")
    names = ("svf-math", "svf-code", "svf-reasoning")
    z = mix([load_expert(f"data/adapters/{name}/seed-1").z for name in names], torch.tensor([0.9, -0.2, 0.4]))
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "out"))
    assert close(merged, svf(z, tmp_path / "svf"))
    about = json.loads((tmp_path / "out" / "export.json").read_text())
    assert about["mixture"] == "svf-code=-0.23333333,svf-math=0.8666667,svf-reasoning=0.36666667", "which sum to 1"
    assert set(about["experts"]) == {f"{name}/seed-1" for name in names}


def test_a_found_mix_keeps_its_form_and_weights_per_layer(
    project: Path, tmp_path: Path, t2, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "params.yaml", "data/adapters", "data/sets", "data/basis"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to((project / name).resolve())
    alpha = {"svf-math": [0.9, 0.2], "base": [0.3, -0.1]}
    write_found(tmp_path, "code_hard", alpha, "free")
    write_found(tmp_path, "math_hard", alpha, "free")
    write_found(tmp_path, "reasoning_hard", alpha, "free")
    monkeypatch.chdir(tmp_path)
    t2("expert", "export", "--search", "code_hard", "--out", "out")
    z = load_expert("data/adapters/svf-math/seed-1").z
    sigma = {name: BasisCache.open("data/basis/main").load(name).sigma for name in z}
    expected = mix([z, base_expert(z)], torch.tensor(list(alpha.values())).T, "free", sigma)
    assert close(logits(AutoModelForCausalLM.from_pretrained("out")), svf(expected, tmp_path / "svf"))
    spoken = t2("ask", "How many?", "--system", "fewshot", "--task", "code_hard", "--max-new-tokens", 4).stderr
    found = Mixture(alpha, "free").effective({"svf-math": z}, sigma).summary
    assert found.startswith("svf-math 1.36 (0.73 to 2.27), base -0.35")
    assert f"{found} (seed 1): few-shot search found it for code_hard" in spoken


def test_a_folder_is_exported_without_a_project(
    project: Path, tmp_path: Path, t2, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expert = project / "data/adapters/svf-code/seed-0"
    t2("expert", "export", expert, "--base", project / "base", "--format", "lora", "--rank", 2, "--out", "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, str(project / "base"))


def test_import_of_the_reference_codes_file(project: Path, tmp_path: Path, t2) -> None:
    shapes = {name: len(z) for name, z in load_expert("data/adapters/svf-math/seed-0").z.items() if ".mlp." in name}
    generator = torch.Generator().manual_seed(0)
    learned = {f"{name}.weight": torch.randn(r, generator=generator).bfloat16() for name, r in shapes.items()}
    torch.save(learned, tmp_path / "learnable_params.pt")
    basis = ("--basis", "data/basis/main")
    arguments = (tmp_path / "learnable_params.pt", "--base", "base", "--task", "math", "--seed", 42, *basis)
    t2("expert", "import", *arguments, "--out", tmp_path / "out")
    shown = json.loads(t2("expert", "show", tmp_path / "out", "--json").output)
    assert (shown["task"], shown["seed"]) == ("math", 42)
    assert {row["name"] for row in shown["matrices"]} == shapes.keys()
    assert not close(logits(PeftModel.from_pretrained(base(), tmp_path / "out")), logits(base()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "maths"], "no expert 'maths'"),
        (["export", "svf-math", "--rank", "3", "--out", "x"], "only a LoRA has a rank; add --format lora"),
        (["export", "--out", "x"], "name either an expert or a mix"),
        (["export", "svf-math", "--search", "math_hard", "--out", "x"], "name either an expert or a mix"),
        (["export", "--search", "code_hard", "--out", "x"], "no mix was found by search 'code_hard'; .* math_hard"),
        (["export", "svf-math=1", "svf-math/seed-1=1", "--out", "x"], "two names of the mix mean one expert"),
        (["export", "math=1", "--out", "x"], "a mix has two parts at least"),
        (["export", "svf-math", "--out", "data"], "exists already"),
        (["export", "svf-math", "--dtype", "bfloat16", "--out", "x"], "made from other weights"),
        (["export", "svf-math", "--base", "elsewhere", "--out", "x"], "no model folder elsewhere"),
        (["export", "svf-math", "--format", "lora", "--rank", "99", "--out", "x"], "rank is 99; it must be from 1"),
        (["import", "absent.pt", "--base", "base", "--out", "x"], "absent.pt"),
        (["import", "params.yaml", "--base", "base", "--out", "data"], "exists already"),
    ],
)
def test_what_is_refused_is_said_in_one_line(
    project: Path, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["t2", "expert", *arguments])
    with pytest.raises(SystemExit, match=f"^t2: .*{message}"):
        main()
    assert not (project / "x").exists() and not list(project.glob(".x*"))


def test_a_z_that_does_not_vary_has_no_correlation() -> None:
    flat, other = {"q": torch.full((7,), 0.1)}, {"q": torch.arange(7.0)}
    assert expert._likeness(flat, other)["correlation"] is None
    assert expert._likeness(other, flat)["correlation"] is None
    assert expert._likeness(other, other)["correlation"] == pytest.approx(1)
