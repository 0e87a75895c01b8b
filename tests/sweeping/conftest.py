"""A sweep of a tiny model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from architectures import LLAMA

import eckart
from eckart.types import Sweep


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
    from eckart.sweeping import measuring

    times: list[Any] = []
    really = measuring.run

    def counted(request: Any) -> Any:
        times.append(request)
        return really(request)

    monkeypatch.setattr(measuring, "run", counted)
    return times
