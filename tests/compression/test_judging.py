"""What a training is judged by: nothing that it learned from, and the loss that it made smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, LLAMA, T5, write_data
from torch.nn import functional

import eckart
from eckart.compression.judging import Parted
from eckart.data import read_texts
from eckart.data.splitting import set_apart
from eckart.model.loading import load_model, load_tokenizer
from eckart.recovery.settings import make_training
from eckart.types import Text

FEW: dict[str, Any] = {"steps": 6, "batch": 8, "learning_rate": 5e-3}


def loss_of(folder: Path | str, texts: list[Text], dtype: str = "auto") -> float:
    """Mean loss of the completions' tokens and the end of text, text by text."""
    model, tokenizer = load_model(Path(folder), dtype=dtype), load_tokenizer(Path(folder))
    total, count = 0.0, 0
    for text in texts:
        ids = [*tokenizer(text.text)["input_ids"], tokenizer.eos_token_id]
        start = len(tokenizer(text.prompt)["input_ids"])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, :-1].float()
        losses = functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        total, count = total + float(losses[max(start, 1) - 1 :].sum()), count + len(ids) - max(start, 1)
    return total / count


def record_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "eckart.json").read_text())
    return found


@pytest.mark.parametrize("count", [8, 9, 100, 5000])
def test_texts_are_set_apart_once(count: int) -> None:
    texts = [Text("", str(at)) for at in range(count)]
    learning, held = set_apart(texts)
    assert sorted(learning + held, key=lambda text: int(text.completion)) == texts
    assert 1 <= len(held) <= min(count // 8, 256)


def test_of_a_running_text_the_end_is_set_apart() -> None:
    words = " ".join(f"w{at}" for at in range(4000))
    (learning,), (held,) = set_apart([Text("", words)])
    assert f"{learning.completion} {held.completion}" == words
    assert 0.1 < len(held.completion) / len(words) < 0.13
    assert set_apart([Text("", "one")]) == ([Text("", "one")], [])


def test_a_compressed_and_trained_model_says_what_it_lost(stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 64)
    out = tmp_path / "out"
    made = eckart.compress(stored(LLAMA), out, keep=0.5, method="svd", data=str(data), training=FEW)
    learning, held = set_apart(read_texts(str(data)))
    measured = made.manifest.held_out
    assert measured is not None
    assert measured.before == pytest.approx(loss_of(stored(LLAMA), held), abs=1e-4)
    assert measured.after == pytest.approx(loss_of(out, held), abs=1e-4)
    assert made.manifest.training[0].examples == len(learning)


def test_recover_says_what_its_training_came_to(stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 64)
    cut, out = tmp_path / "cut", tmp_path / "out"
    eckart.compress(stored(LLAMA), cut, keep=0.5, method="svd")
    eckart.recover(cut, out, data=str(data), teacher=str(stored(LLAMA)), training=FEW)
    _, held = set_apart(read_texts(str(data)))
    after, found = loss_of(out, held), record_of(out)
    gained = found["training"][-1]["held_out"]
    assert gained["before"] == pytest.approx(loss_of(cut, held), abs=1e-4)
    assert gained["after"] == pytest.approx(after, abs=1e-4)
    assert found["held_out"]["before"] == pytest.approx(loss_of(stored(LLAMA), held), abs=1e-4)
    assert found["held_out"]["after"] == pytest.approx(after, abs=1e-4)


def test_a_training_that_made_it_worse_is_warned_of(stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 64)
    wild = {**FEW, "learning_rate": 5.0}
    made = eckart.recover(stored(LLAMA), tmp_path / "out", data=str(data), training={**wild, "train": "all"})
    assert "became worse" in made.warnings[0]


@pytest.mark.parametrize("architecture", [BERT, T5])
def test_other_kinds_of_models_are_judged_too(architecture: Any, stored: Any, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data.jsonl", 64)
    made = eckart.compress(stored(architecture), keep=0.5, method="svd", data=str(data), training=FEW)
    assert made.manifest.held_out is not None
    assert made.manifest.held_out.divergence > 0


def test_too_little_to_hold_out_is_said(stored: Any) -> None:
    folder = Path(stored(LLAMA))
    texts = [Text("w1 ", "w2")] * 9
    parted = Parted.of(load_model(folder), load_tokenizer(folder), texts, make_training(steps=1))
    assert parted.learning == texts
    assert not parted.batches
    assert "9 texts are too little" in parted.notes[0]
