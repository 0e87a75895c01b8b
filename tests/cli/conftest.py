"""Eckart from outside, in this process; for whole ones there is `process`."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from outside import Answer, Eckart
from typer.testing import CliRunner

from eckart.cli import app

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def eckart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Eckart:
    """Run a command in this process, in an empty folder, with the hub out of reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def run(*arguments: object) -> Answer:
        with warnings.catch_warnings():
            result = CliRunner(env={"TRANSFORMERS_VERBOSITY": "error"}).invoke(
                app, [str(a) for a in arguments]
            )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: the real models and data are not here")
    return SHARED
