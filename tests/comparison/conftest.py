"""A comparison whose methods are stubs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from comparison import Compare

import eckart
from eckart.types import Comparison


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
