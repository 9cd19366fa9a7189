"""Trainings in processes of their own, killed and started again."""

from __future__ import annotations

import random
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from .setting import recipe, run, training

# The server has everything imported; a training is a process that it forks.
PROCESSES: Any = get_context("forkserver")
PROCESSES.set_forkserver_preload(["t2.training.adapters", "t2.training.loop"])


class Trainings:
    """Trainings of one kind on one scratch folder."""

    def __init__(self, base: Path, folder: Path, **settings: Any) -> None:
        self.out = folder / "adapter.safetensors"
        self.scratch = folder / "scratch"
        method = settings.pop("method", "svf")
        self.arguments = (base, self.scratch, self.out, recipe(steps=12), training(**settings), method)

    def start(self) -> BaseProcess:
        process: BaseProcess = PROCESSES.Process(target=run, args=self.arguments)
        process.start()
        return process

    def finish(self) -> bytes:
        process = self.start()
        process.join()
        assert process.exitcode == 0
        return self.out.read_bytes()


def _uninterrupted(base: Path, folder: Path, **settings: Any) -> tuple[bytes, float]:
    """The adapter's bytes, and the seconds that the training takes once the fork server runs."""
    trainings = Trainings(base, folder / "warm", **settings)
    trainings.finish()
    start = time.monotonic()
    expected = Trainings(base, folder / "whole", **settings).finish()
    assert expected == trainings.out.read_bytes()
    return expected, time.monotonic() - start


def _kill_at_random(trainings: Trainings, seconds: float, kills: int, generator: random.Random) -> int:
    """Kills up to ``kills`` trainings in turn; returns how many it caught before their end."""
    for done in range(kills):
        process = trainings.start()
        process.join(generator.uniform(0, seconds))
        if process.exitcode is not None:
            return done
        process.kill()
        process.join()
    return kills


@pytest.mark.parametrize("method", ["svf", "lora"])
def test_killed_at_random_and_started_again(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    expected, seconds = _uninterrupted(tiny_folder, tmp_path, method=method, checkpoint_every=5)
    generator = random.Random(method)
    trainings = Trainings(tiny_folder, tmp_path / "killed", method=method, checkpoint_every=2)
    assert _kill_at_random(trainings, 0.6 * seconds, 4, generator) > 0
    assert trainings.finish() == expected


def _kill_while_writing(trainings: Trainings, nth: int) -> bool:
    """Kills a training when the n-th new temporary file appears; whether the kill left one behind."""
    process, seen, present = trainings.start(), 0, False
    while process.is_alive():
        before, present = present, any(trainings.scratch.glob("*.tmp"))
        seen += present and not before
        if seen == nth:
            process.kill()
            break
    process.join()
    return any(trainings.scratch.glob("*.tmp"))


def test_killed_in_the_middle_of_a_write(tiny_folder: Path, tmp_path: Path) -> None:
    expected, _ = _uninterrupted(tiny_folder, tmp_path)
    trainings = Trainings(tiny_folder, tmp_path / "killed")
    assert any(_kill_while_writing(trainings, nth=2) for _ in range(4))
    assert trainings.finish() == expected


@pytest.mark.slow
@pytest.mark.parametrize("method", ["svf", "lora"])
def test_killed_very_often(tiny_folder: Path, tmp_path: Path, method: str) -> None:
    expected, seconds = _uninterrupted(tiny_folder, tmp_path, method=method)
    generator = random.Random(method)
    for attempt in range(10):
        trainings = Trainings(tiny_folder, tmp_path / str(attempt), method=method)
        _kill_at_random(trainings, 0.6 * seconds, 10, generator)
        assert trainings.finish() == expected
