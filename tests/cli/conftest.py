"""Eckart from outside: in this process for the many, in forks of a warm one for the whole ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
def _warm() -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "warm.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        text=True,
    )
    yield server
    assert server.stdin is not None
    server.stdin.close()
    server.wait(10)


@pytest.fixture
def process(_warm: subprocess.Popen[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Eckart:
    """Run a command as a process of its own, in an empty folder, with the hub out of reach."""
    streams = tmp_path_factory.mktemp("streams")

    def run(*arguments: object, **more: Any) -> Answer:
        request = {
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(tmp_path),
            "stdout": str(streams / "out"),
            "stderr": str(streams / "err"),
            **more,
        }
        assert _warm.stdin is not None
        assert _warm.stdout is not None
        _warm.stdin.write(json.dumps(request) + "\n")
        _warm.stdin.flush()
        code = int(_warm.stdout.readline())
        return Answer(code, (streams / "out").read_text(), (streams / "err").read_text())

    return run


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data beside the repository."""
    if not SHARED.is_dir():
        pytest.skip(f"no {SHARED}: the real models and data are not here")
    return SHARED
