from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from finished_project import finish_project
from typer.testing import CliRunner, Result

from t2.cli import app


@pytest.fixture(scope="session")
def finished_project(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Commands write nothing into it, so all tests share it."""
    return finish_project(tmp_path_factory.mktemp("project"), tiny_folder)


@pytest.fixture
def project(finished_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished project, as the working directory."""
    monkeypatch.chdir(finished_project)
    return finished_project


@pytest.fixture
def t2() -> Callable[..., Result]:
    """Runs a command; whatever it raises reaches the test."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)

    return run
