"""What `sweep` refuses, before anything is measured or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA

import eckart
from eckart import UsageError
from eckart.types import Sweep

Run = Callable[..., Sweep]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ratios": []}, "--ratios is empty"),
        ({"ratios": [0.5, 1.5]}, "ratio 1.5 is not a share"),
        ({"ratios": [0.0]}, "ratio 0 is not a share"),
        ({"ratios": [float("nan")]}, "ratio nan is not a share"),
        ({"task": None, "data": None}, "there is nothing to measure"),
        ({"task": None, "prompts": "w1"}, "--data is for a task"),
        ({"task": None, "data": None, "prompts": "w1", "limit": 2}, "--limit is for a task"),
        ({"task": "perplexty"}, "did you mean perplexity"),
        ({"data": None}, "task perplexity needs data"),
        ({"data": "missing.jsonl"}, "no such data file"),
        ({"batch": 2}, "--batch is for"),
        ({"limit": 0}, "--limit 0"),
        ({"prompts": [" "]}, "is empty"),
        ({"continuation": 0}, "--continuation 0"),
        ({"structure": "dense"}, "unknown structure 'dense'"),
        ({"layers": "top"}, "is none of top:4"),
        ({"layers": "7"}, "7 has none of the targets; the blocks are"),
        ({"layers": "2..1"}, "is no range"),
        ({"layers": [" "]}, "--layers is empty"),
        ({"targets": "z_proj"}, "fits no linear layer"),
        ({"targets": " , "}, "--targets is empty"),
        ({"search": True, "task": "pocket-math", "data": None}, "--data pocket"),
        ({"search": True, "task": None, "data": None, "prompts": "w1"}, "--search needs a score"),
        ({"search": True, "limit": 1}, "looks at every 5th text"),
        ({"search": True, "targets": "lm_head", "layers": None}, "none of the targets is in one"),
        ({"grid": False}, "without the grid there is nothing to do"),
        ({"merge": True}, "--merge is for what is saved"),
        ({"cell": "best"}, "--cell best is for what is saved"),
        ({"save": "S", "cell": "0.5:top:3"}, "no such cell"),
        ({"save": "S", "task": None, "data": None, "prompts": "w1"}, "no cell is the best"),
        ({"save": "S", "search": True, "cell": "0.5:top:1"}, "--search alone has no cells"),
        ({"save": "taken"}, "exists already"),
        ({"save": "O", "out": "O"}, "the sweep itself is there"),
        ({"tokenizer": None}, "pass tokenizer="),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_measured(
    sweep: Run,
    asked: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError) as caught:
        sweep(**options)
    assert words in str(caught.value)
    assert asked == []
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_an_encoder_is_asked_for_no_text(sweep: Run, stored: Any) -> None:
    with pytest.raises(UsageError, match="BertModel writes no text"):
        sweep(str(stored(BERT)), prompts="w1", tokenizer=None, task=None, data=None)


def test_a_compressed_model_is_refused(sweep: Run, stored: Any, tmp_path: Path) -> None:
    eckart.compress(stored(LLAMA), tmp_path / "small", keep=0.7, method="svd")
    with pytest.raises(UsageError, match="compressed already"):
        sweep(str(tmp_path / "small"))
