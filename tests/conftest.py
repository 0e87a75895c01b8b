"""Puts this folder on the path, so that any test can `import architectures`; what many tests share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from outside import Answer, Eckart

# Tiny models gain nothing from threads, and lose much where other work shares the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What one test observed must not be what another finds, nor what is left in a person's own cache.
os.environ["ECKART_CACHE"] = tempfile.mkdtemp(prefix="eckart-tests-")

STUB = Path(__file__).parent / "stub_worker.py"

# On a busy machine an example may take long, and a run must be one that can be repeated.
settings.register_profile("eckart", deadline=None, derandomize=True)
settings.load_profile("eckart")


LONGEST = ("test_readme.py", "test_docs.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes comes first, so that at the end no process waits for the other."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """The tiny models' tokenizer: a word a token."""
    from architectures import tiny_tokenizer

    return tiny_tokenizer()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A `.jsonl` of prompts and completions in the tiny tokenizer's words."""
    from architectures import write_data

    return str(write_data(tmp_path_factory.mktemp("data") / "words.jsonl"))


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An architecture to the folder of its dense tiny model, with a tokenizer; made once."""
    from architectures import tiny_tokenizer

    root = tmp_path_factory.mktemp("dense")

    def store(architecture: Any) -> Path:
        folder = root / architecture.name
        if not folder.exists():
            architecture.build().save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
        return folder

    return store


@pytest.fixture
def does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Say what the stub of a comparison's processes does; without a word it gives every row."""

    def say(**methods: Any) -> list[str]:
        told = json.dumps({"log": str(tmp_path / "log"), **methods})
        command = [sys.executable, "-S", str(STUB), told]
        monkeypatch.setattr("eckart.comparison.workers.WORKER", command)
        return command

    say()
    return say


def other_hashes() -> dict[str, str]:
    """An environment in which a process goes through its sets of names in another order than this one."""
    return {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}


@pytest.fixture(scope="session")
def anew() -> Callable[..., Any]:
    """What the JSON is that a script prints in a fresh process, which hashes strings otherwise."""

    def run(script: str, *folders: Path) -> Any:
        environment = other_hashes()
        path = [*map(str, folders), *filter(None, [environment.get("PYTHONPATH")])]
        command = [sys.executable, "-c", script]
        environment["PYTHONPATH"] = os.pathsep.join(path)
        return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)

    return run


@pytest.fixture(scope="session")
def _warm() -> Iterator[subprocess.Popen[str]]:
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "warm.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**other_hashes(), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        text=True,
    )
    yield server
    assert server.stdin is not None
    server.stdin.close()
    server.wait(10)


@pytest.fixture
def process(_warm: subprocess.Popen[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Eckart:
    """Run a command as a process of its own, in an empty folder, with the hub out of reach.

    It is a fork of one that has imported everything, and hashes strings otherwise than this one does.
    """
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
        out = "" if "stdout" in more else (streams / "out").read_text()
        return Answer(code, out, (streams / "err").read_text())

    return run
