"""Benchmarks, run small; the one for a GPU on the CPU: on a lent machine it has one try."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TINY = ["--scale", "64", "--layers", "2", "--rollouts", "4", "--micro-batch", "2", "--batch", "4", "--prompt", "8"]
TINY += ["--reply", "4", "--repeats", "1", "--device", "cpu"]


def run(*options: str, script: str = "gpu") -> str:
    command = [sys.executable, f"benchmarks/{script}.py", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_every_row_is_measured_part_after_part(dtype: str, tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    for parts in ("basis,decode", "training,folding"):
        table = run(*TINY, "--dtype", dtype, "--only", parts, "--gpu", "h100", "--out", str(out))
    rows = json.loads(out.read_text())["rows"]
    assert len(rows) == 11 and "not measured" not in table
    for name, row in rows.items():
        assert all(math.isfinite(row[key]) and row[key] > 0 for key in ("seconds", "peak", "ratio")), name
        assert row["against"] and (name == "basis.cache" or row["plan_peak"] > 0)
    assert "equal to the bare model's: 4 of 4" in rows["decode.base"]["note"]


@pytest.mark.slow
def test_what_is_expected_of_the_whole_model_needs_no_weights() -> None:
    table = run("--dry", "--gpu", "h200")
    assert "8,030.3 M parameters" in table and "of h200's peak" in table
    assert table.count("| not measured | not measured | not measured |") == 11


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "printed"),
    [
        ("basis", "--sizes 64x32 --repeats 1", "ratio"),
        ("cem", "--population 3 --shots 2 --max-new-tokens 4 --repeats 1", "equal replies 6 of 6"),
        ("dispatch", "--items 2 --repeats 1", "named as by generation: 8 of 8"),
        ("generation", "--items 4 --batch 4 --max-new-tokens 4 --repeats 1", "model.generate and engine: 4 of 4"),
        ("sandbox", "--programs 10", "ratio sandboxed / bare"),
        ("training_step", "--hidden 256 --length 8 --steps 1 --rounds 1", "SVF, reference form"),
    ],
)
def test_each_runs_small(script: str, options: str, printed: str) -> None:
    assert printed in run(*options.split(), script=script)
