"""What vLLM's adapter slots are filled from."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from t2.engine.vllm_svf.slots import digest, slot_number, write_slot

Z = {f"model.layers.{layer}.mlp.up_proj": torch.linspace(0.5, 1.5, 64) for layer in range(8)}


def test_a_slot_is_whole_from_its_first_moment_and_never_written_again(tmp_path: Path) -> None:
    """Readers look for it while many write it, as vLLM's workers do."""
    wanted = tmp_path / digest(Z)

    def read(_: int) -> list[int]:
        seen = []
        while len(seen) < 20:
            if wanted.exists():
                tensors = load_file(wanted / "adapter_model.safetensors")
                config = json.loads((wanted / "adapter_config.json").read_text())
                assert len(tensors) == 2 * len(config["target_modules"]) == 16
                seen.append((wanted / "adapter_model.safetensors").stat().st_ino)
        return seen

    with ThreadPoolExecutor(16) as pool:
        readers = [pool.submit(read, n) for n in range(4)]
        assert {pool.submit(write_slot, Z, tmp_path).result() for _ in range(24)} == {wanted}
        assert set(pool.map(lambda _: write_slot(Z, tmp_path), range(24))) == {wanted}
        assert len({inode for reader in readers for inode in reader.result()}) == 1
    assert list(tmp_path.iterdir()) == [wanted]


def test_many_first_writers_leave_one_slot(tmp_path: Path) -> None:
    for n in range(20):
        z = {name: values + n for name, values in Z.items()}
        with ThreadPoolExecutor(8) as pool:
            (folder,) = set(pool.map(lambda _: write_slot(z, tmp_path), range(8)))  # noqa: B023
        assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert len(list(tmp_path.iterdir())) == 20


def test_slots_differ_by_z_alone(tmp_path: Path) -> None:
    other = {name: values.clone() for name, values in reversed(Z.items())}
    assert write_slot(other, tmp_path) == write_slot(Z, tmp_path)
    other[next(iter(other))][3] += 1e-6
    assert write_slot(other, tmp_path) != write_slot(Z, tmp_path)
    assert slot_number(digest(other)) != slot_number(digest(Z)) > 0


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 1e39])
def test_z_that_is_not_finite_gets_no_slot(value: float, tmp_path: Path) -> None:
    name = next(iter(Z))
    wrong = Z | {name: torch.full((64,), value, dtype=torch.float64)}
    with pytest.raises(ValueError, match=f"z of {name} is not finite in float32"):
        write_slot(wrong, tmp_path)
    assert not list(tmp_path.iterdir())
