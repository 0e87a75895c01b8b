"""A model beside the dense one: every figure worked out again, token by token."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from architectures import BERT, LLAMA, T5, write_data
from outside import Eckart

import eckart
from eckart.data import read_texts
from eckart.evaluation.tasks.against import repetition
from eckart.model.loading import load_model, load_tokenizer
from eckart.types import UsageError


@pytest.fixture(scope="module")
def small(stored: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("against") / "small"
    eckart.compress(stored(LLAMA), out, keep=0.7, method="svd")
    return out


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("texts") / "data.jsonl", 24)


def by_hand(model: Path, dense: Path, texts: Path) -> dict[str, float]:
    """The same figures in float64, text by text, and standard errors by leaving one window out at a time."""
    tokenizer = load_tokenizer(dense)
    both = [load_model(Path(each)).double() for each in (model, dense)]
    windows = []
    for text in read_texts(str(texts)):
        ids = torch.tensor([tokenizer(text.text, truncation=True, max_length=64)["input_ids"]])
        with torch.no_grad():
            said, meant = (each(ids).logits[0, :-1].log_softmax(-1) for each in both)
        rows = np.arange(len(said))
        windows.append(
            [
                -said[rows, ids[0, 1:]].numpy(),
                -meant[rows, ids[0, 1:]].numpy(),
                (meant.exp() * (meant - said)).sum(-1).numpy(),
                (said.argmax(-1) == meant.argmax(-1)).double().numpy(),
            ]
        )
    figures = [np.concatenate([window[at] for window in windows]) for at in range(4)]

    def jackknife(at: int) -> float:
        sums = np.array([window[at].sum() for window in windows])
        counts = np.array([len(window[at]) for window in windows])
        left = (sums.sum() - sums) / (counts.sum() - counts)
        return float(np.sqrt((len(sums) - 1) * np.var(left)))

    return {
        "loss": figures[0].mean(),
        "dense_perplexity": math.exp(figures[1].mean()),
        "perplexity_ratio": math.exp((figures[0] - figures[1]).mean()),
        "divergence": figures[2].mean(),
        "divergence_error": jackknife(2),
        "divergence_median": float(np.median(figures[2])),
        "divergence_99": float(np.quantile(figures[2], 0.99)),
        "same_top": figures[3].mean(),
        "same_top_error": jackknife(3),
        "tokens": len(figures[0]),
    }


def test_every_figure_is_that_of_the_tokens(small: Path, stored: Any, texts: Path) -> None:
    score = eckart.evaluate(small, "perplexity", data=str(texts), against=stored(LLAMA))
    for name, expected in by_hand(small, stored(LLAMA), texts).items():
        within = 0.1 if name.endswith("_error") else 1e-4
        assert score.details[name] == pytest.approx(expected, rel=within), name
    assert score.value == pytest.approx(eckart.evaluate(small, "perplexity", data=str(texts)).value, rel=1e-6)


def test_a_model_beside_itself_is_the_same(stored: Any, texts: Path) -> None:
    found = eckart.evaluate(stored(LLAMA), "perplexity", data=str(texts), against=stored(LLAMA)).details
    assert found["perplexity_ratio"] == found["same_top"] == 1
    assert found["divergence"] == found["divergence_99"] == found["divergence_error"] == 0
    assert found["repetition"] == found["dense_repetition"]


def test_one_window_has_no_standard_error(small: Path, stored: Any, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("w1 w2 w3 w4 w5 w6")
    found = eckart.evaluate(
        small, "perplexity", data=str(tmp_path / "one.txt"), against=stored(LLAMA)
    ).details
    assert found["windows"] == 1
    assert found["divergence_error"] is None
    assert found["divergence"] > 0


def test_what_was_written_before_is_a_repetition() -> None:
    assert repetition([[1, 2, 3, 4, 5]]) == 0
    assert repetition([[1, 2, 3, 4, 1, 2, 3, 4]]) == pytest.approx(1 / 5)
    assert repetition([[7] * 8, [1, 2, 3, 4]]) == pytest.approx(1 - 2 / 6)
    assert repetition([[1, 2]]) == 0


def test_an_encoder_decoder_is_compared_on_what_it_writes(stored: Any, tmp_path: Path) -> None:
    out = tmp_path / "small"
    eckart.compress(stored(T5), out, keep=0.7, method="svd")
    data = write_data(tmp_path / "data.jsonl", 8)
    found = eckart.evaluate(out, "perplexity", data=str(data), against=stored(T5)).details
    assert found["divergence"] > 0
    assert "repetition" not in found


def test_it_is_shown_and_in_json(process: Eckart, small: Path, stored: Any, texts: Path) -> None:
    line = ["evaluate", small, "--task", "perplexity", "--data", texts, "--against", stored(LLAMA)]
    shown = process(*line)
    assert "same likeliest token" in shown.out
    assert "±" in shown.out
    found = process(*line, "--json").json
    assert json.loads(json.dumps(found))["divergence"] > 0


def test_what_does_not_compare_is_refused(small: Path, stored: Any, texts: Path) -> None:
    with pytest.raises(UsageError, match="predicts no next token"):
        eckart.evaluate(stored(BERT), "perplexity", data=str(texts), against=stored(BERT))
    with pytest.raises(UsageError, match="another vocabulary"):
        eckart.evaluate(small, "perplexity", data=str(texts), against="pocket")
    with pytest.raises(UsageError, match="--against is for perplexity"):
        eckart.evaluate("pocket", "pocket-math", against="pocket")
