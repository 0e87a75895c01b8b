"""`eckart bench` from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

SHORT = ("--prompt", 8, "--new", 2, "--rounds", 1, "--no-memory")


@pytest.fixture(scope="module")
def small(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import eckart

    out = tmp_path_factory.mktemp("benched") / "small"
    eckart.compress(stored(LLAMA), out, ratio=0.25, method="svd")
    return out


def test_a_table_and_an_object(eckart: Eckart, small: Path) -> None:
    answer = eckart("bench", small, *SHORT, "--batch", "1,2", "--fuse", "--json")
    assert {
        "model",
        "other",
        "device",
        "dtype",
        "threads",
        "fused",
        "compiled",
        "rounds",
        "rows",
        "memory",
        "other_memory",
        "notes",
    } == set(answer.json)
    assert len(answer.json["rows"]) == 8
    assert "times as" in answer.err
    assert "small beside its dense counterpart: cpu, float32" in answer.err


def test_a_wrong_request_says_so(eckart: Eckart, stored: Any) -> None:
    eckart("bench", stored(LLAMA), "--batch", "one").fails(2, "--batch one")
    eckart("bench", stored(LLAMA), "nowhere").fails(2, "no such model", "nowhere")
    eckart("bench", stored(LLAMA), "--prompt", 0).fails(2, "--prompt 0")
