"""A comparison whose methods are stubs, and a sweep of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from comparison import Compare

import eckart
from eckart.types import Comparison, Sweep


@pytest.fixture
def compare(does: Any, stored: Any, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Two methods at two sizes on a tiny model, unless told otherwise; without the plot, which takes long."""
    monkeypatch.setattr("eckart.report.draw", lambda rows, lower_is_better: {})

    def run(**options: Any) -> Comparison:
        asked: dict[str, Any] = {
            "model": stored(LLAMA),
            "out": tmp_path / "out",
            "methods": ["svd", "svd-llm"],
            "keep": [0.9, 0.8],
            "data": data,
        }
        return eckart.compare(**(asked | options))

    return run


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch, compare: Compare) -> None:
    """A process would fail at once."""
    monkeypatch.setattr("eckart.comparison.workers.WORKER", ["/no/such/program"])


@pytest.fixture
def model(stored: Any) -> Any:
    """A tiny Llama."""
    return LLAMA.load(stored(LLAMA)).eval()


@pytest.fixture
def sweep(model: Any, tokenizer: Any, data: str) -> Callable[..., Sweep]:
    """A sweep of that model in memory, unless told otherwise."""

    def run(which: Any = model, **options: Any) -> Sweep:
        asked = {"ratios": [0.25, 0.5], "layers": "top:1..2", "task": "perplexity", "data": data}
        return eckart.sweep(which, **{"tokenizer": tokenizer, **asked, **options})

    return run


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the task of a sweep was run on, each time."""
    from eckart.sweeping import judging

    times: list[Any] = []
    really = judging.run

    def counted(request: Any) -> Any:
        times.append(request)
        return really(request)

    monkeypatch.setattr(judging, "run", counted)
    return times
