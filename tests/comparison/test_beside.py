"""How far a model of a comparison is from the dense one: as `evaluate --against`, from answers kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, LLAMA, T5, Architecture, write_data

import eckart
from eckart.comparison.beside import TOKENS, Beside
from eckart.data import read_texts
from eckart.model.loading import load_model, load_tokenizer
from eckart.types import silent

LENGTH = 64


@pytest.mark.parametrize("architecture", [LLAMA, T5])
def test_it_is_what_evaluate_says_against_the_dense_model(
    architecture: Architecture, stored: Any, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data.jsonl", 24)
    dense = stored(architecture)
    eckart.compress(dense, tmp_path / "small", keep=0.7, method="svd")
    asked = {"data": str(data), "against": dense, "max_length": LENGTH}
    expected = eckart.evaluate(tmp_path / "small", "perplexity", **asked).details
    model, tokenizer = load_model(Path(dense)), load_tokenizer(Path(dense))
    beside = Beside.of(model, tokenizer, read_texts(str(data)), LENGTH, None, silent)
    assert beside is not None
    # The dense model is asked no more: whatever becomes of it, what it said stays.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layer" in name or "block" in name:
                weight.zero_()
    found = beside.divergence(load_model(tmp_path / "small"))
    assert found == pytest.approx((expected["divergence"], expected["same_top"]), rel=1e-4)
    assert found[0] > 1e-3


def test_long_data_are_read_in_part_and_from_all_over(stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 1600)
    folder = Path(stored(LLAMA))
    model, tokenizer = load_model(folder), load_tokenizer(folder)
    texts = read_texts(str(data))
    whole = sum(len(tokenizer(each.text)["input_ids"]) for each in texts)
    assert whole > 1.5 * TOKENS
    beside = Beside.of(model, tokenizer, texts, LENGTH, None, silent)
    assert beside is not None
    read = sum(int(batch["attention_mask"].sum()) for batch in beside.batches)
    assert 0.9 * TOKENS < read < 1.1 * TOKENS


def test_a_model_that_writes_nothing_has_none(stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 4)
    folder = Path(stored(BERT))
    texts = read_texts(str(data), lines=True)
    assert Beside.of(load_model(folder), load_tokenizer(folder), texts, LENGTH, None, silent) is None


def test_the_rows_of_a_comparison_say_it(stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 24)
    made = eckart.compare(stored(LLAMA), tmp_path / "out", keep=[0.8, 0.5], methods=["svd"], data=str(data))
    dense, shallow, deep = made.rows
    assert (dense.divergence, dense.same_top) == (pytest.approx(0, abs=1e-6), 1.0)
    assert deep.divergence > shallow.divergence > 1e-4
    head, rows = made.in_a_table()
    assert "divergence" in head
    assert all(len(row) == len(head) for row in rows)
