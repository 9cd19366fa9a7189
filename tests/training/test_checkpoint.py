from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from torch import nn

from t2.files import temporary_name
from t2.training import checkpoint
from t2.training.checkpoint import Checkpoint
from t2.training.state import Sampler, TrainingState

IDENTITY = {"fingerprint": "a", "threads": 1, "recipe": {"lr": 0.1}}


def _state(size: int = 3) -> TrainingState:
    parameters = {"z": nn.Parameter(torch.ones(size)), "b": nn.Parameter(torch.zeros(2, size))}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    return TrainingState(parameters, optimizer, Sampler(10, seed=0), torch.Generator().manual_seed(5))


def _advance(state: TrainingState) -> list[float]:
    """One step that uses every generator; returns all that they gave and what was reached."""
    numbers = [float(torch.rand(())), float(torch.rand((), generator=state.rollouts)), *state.sampler.take(4)]
    for parameter in state.parameters.values():
        parameter.grad = torch.rand(parameter.shape)
    state.optimizer.step()
    state.step += 1
    state.note_score(0.5)
    values = [value.detach().flatten() for value in state.parameters.values()]
    return numbers + torch.cat(values).tolist()


def test_a_restored_state_goes_on_as_the_first_would_have(tmp_path: Path) -> None:
    state = _state()
    for _ in range(3):
        _advance(state)
    state.history = [{"step": 0, "valid_score": 0.1 + 0.2, "reward": None}]
    checkpoint.write(tmp_path, state.capture(), IDENTITY)
    expected = [_advance(state) for _ in range(3)]

    saved = checkpoint.read(tmp_path, IDENTITY)
    assert saved is not None
    restored = _state()
    restored.restore(saved)
    assert restored.history == state.history
    assert [_advance(restored) for _ in range(3)] == expected
    assert (restored.best_step, restored.stale) == (state.best_step, state.stale)
    assert all(restored.best[name].equal(value) for name, value in state.best.items())


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    captured = _state().capture()
    written = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        checkpoint.write(folder, captured, IDENTITY)
        written.append([path.read_bytes() for path in folder.iterdir()])
    assert written[0] == written[1]


def test_an_unfinished_write_is_removed_and_the_older_checkpoint_read(tmp_path: Path) -> None:
    assert checkpoint.read(tmp_path / "absent", IDENTITY) is None
    stored = Checkpoint({"x": torch.arange(3)}, {"step": 1})
    checkpoint.write(tmp_path, stored, IDENTITY)
    (whole,) = tmp_path.iterdir()
    temporary_name(whole).write_bytes(whole.read_bytes()[:50])
    found = checkpoint.read(tmp_path, IDENTITY)
    assert found is not None and found.record == {"step": 1} and found.tensors["x"].equal(torch.arange(3))
    assert list(tmp_path.iterdir()) == [whole]


@pytest.mark.parametrize("damage", [lambda data: data[:-4], lambda data: data[:20], lambda data: b""])
def test_a_damaged_checkpoint_is_refused_with_a_way_out(tmp_path: Path, damage: object) -> None:
    checkpoint.write(tmp_path, Checkpoint({"x": torch.arange(3)}, {}), IDENTITY)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ValueError, match=f"damaged.*delete {tmp_path}"):
        checkpoint.read(tmp_path, IDENTITY)


def test_one_flipped_bit_anywhere_in_a_checkpoint_is_noticed(tmp_path: Path) -> None:
    stored = Checkpoint({"x": torch.arange(3), "done": torch.tensor(True), "scale": torch.tensor(0.5)}, {"step": 120})
    checkpoint.write(tmp_path, stored, IDENTITY)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        # Either it is refused, or the bit means nothing.
        with contextlib.suppress(ValueError):
            found = checkpoint.read(tmp_path, IDENTITY)
            assert found and found.record == stored.record and found.tensors.keys() == stored.tensors.keys()
            assert all(found.tensors[name].equal(tensor) for name, tensor in stored.tensors.items())


def test_a_checkpoint_of_another_run_is_refused_with_a_way_out(tmp_path: Path) -> None:
    checkpoint.write(tmp_path, Checkpoint({}, {}), IDENTITY)
    other = {**IDENTITY, "threads": 2, "recipe": {"lr": 0.2}}
    with pytest.raises(ValueError) as caught:
        checkpoint.read(tmp_path, other)
    message = str(caught.value)
    assert "threads: 1 in the checkpoint, 2 now" in message
    assert "recipe: {'lr': 0.1} in the checkpoint, {'lr': 0.2} now" in message
    assert "training.threads" in message and f"delete {tmp_path}" in message
    assert "fingerprint" not in message


def test_environment_tells_threads_apart() -> None:
    one = checkpoint.environment(torch.device("cpu"))
    torch.set_num_threads(2)
    two = checkpoint.environment(torch.device("cpu"))
    assert {name for name in one if one[name] != two[name]} == {"threads"}


def test_parameters_of_another_adapter_are_refused() -> None:
    captured = _state(3).capture()
    with pytest.raises(ValueError, match=r"of another adapter: .*'z'"):
        _state(4).restore(captured)
