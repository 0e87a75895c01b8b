"""`evaluate`: a folder or a loaded model, the same number, and the model as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5, WORDS
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaForCausalLM

from eckart import UsageError, evaluate
from eckart.pocket import MODEL_DIR


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, T5], ids=str)
def test_a_loaded_model_scores_what_its_folder_does(
    architecture: Any, stored: Any, tokenizer: Any, data: str
) -> None:
    folder = stored(architecture)
    loaded = evaluate(architecture.load(folder), "perplexity", data, tokenizer=tokenizer)
    for name in (folder, str(folder)):
        assert evaluate(name, "perplexity", data) == loaded


def test_a_loaded_encoder_scores_what_its_folder_does(stored: Any, tokenizer: Any, tmp_path: Path) -> None:
    rows = [f"main\tnews\t2016\t1\t{n}\t{WORDS[n]} w40\tw50 {WORDS[n + 9]}\n" for n in range(9)]
    (tmp_path / "pairs.csv").write_text("".join(rows))
    loaded = evaluate(BERT.load(stored(BERT)), "stsb", str(tmp_path / "pairs.csv"), tokenizer=tokenizer)
    assert evaluate(stored(BERT), "stsb", str(tmp_path / "pairs.csv")) == loaded


def test_a_loaded_model_needs_its_tokenizer(stored: Any, data: str) -> None:
    with pytest.raises(UsageError, match="tokenizer="):
        evaluate(LLAMA.load(stored(LLAMA)), "perplexity", data)


def test_a_model_in_training_is_measured_without_dropout_and_stays_in_training(
    tokenizer: Any, data: str
) -> None:
    model = GPT2.build()
    assert isinstance(model.config, GPT2Config)
    assert model.config.resid_pdrop > 0
    expected = evaluate(model, "perplexity", data, tokenizer=tokenizer)
    assert not model.training
    model.train()
    assert evaluate(model, "perplexity", data, tokenizer=tokenizer) == expected
    assert model.training
    with pytest.raises(UsageError):
        evaluate(model, "stsb", data, tokenizer=tokenizer)
    assert model.training


def test_measuring_takes_no_gradient(tokenizer: Any, data: str) -> None:
    model = LLAMA.build()
    evaluate(model, "perplexity", data, tokenizer=tokenizer)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_limit_takes_the_first_texts(stored: Any, data: str, tmp_path: Path) -> None:
    lines = Path(data).read_text().splitlines(keepends=True)
    (tmp_path / "first.jsonl").write_text("".join(lines[:5]))
    few = evaluate(stored(LLAMA), "perplexity", data, limit=5)
    assert few == evaluate(stored(LLAMA), "perplexity", str(tmp_path / "first.jsonl"))
    assert few.details["windows"] == 5


def test_a_decoder_in_memory_reads_a_txt_as_one_text(stored: Any, tokenizer: Any, tmp_path: Path) -> None:
    """Also where its config, made in memory, names no architecture."""
    text = tmp_path / "text.txt"
    text.write_text("\n".join(" ".join(WORDS[start : start + 5]) for start in range(8)))
    model = LlamaForCausalLM(LLAMA.load(stored(LLAMA)).config)
    model.config.architectures = None
    found = evaluate(model, "perplexity", str(text), tokenizer=tokenizer).details
    assert found["windows"] == 1
    assert found["tokens"] == 39


def test_a_dtype_is_what_the_model_is_measured_in(stored: Any, data: str) -> None:
    full = evaluate(stored(LLAMA), "perplexity", data)
    half = evaluate(stored(LLAMA), "perplexity", data, dtype="bfloat16")
    assert half.value != full.value
    assert half.value == pytest.approx(full.value, rel=0.05)
    assert evaluate(stored(LLAMA), "perplexity", data, dtype="float32") == full


@pytest.mark.parametrize("option", [{"limit": 0}, {"max_length": 0}, {"dtype": "int4"}, {"device": "abacus"}])
def test_a_bad_option_is_refused(stored: Any, data: str, option: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        evaluate(stored(LLAMA), "perplexity", data, **option)


@pytest.mark.skipif(not (MODEL_DIR / "model.safetensors").exists(), reason="no trained pocket model yet")
def test_the_pocket_tasks_give_what_they_say() -> None:
    model = AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(MODEL_DIR)
    score = evaluate(model, "pocket", limit=4, tokenizer=tokenizer)
    skills = score.details["skills"]
    assert {name: skill["metric"] for name, skill in skills.items()} == {
        "pocket-math": "exact_match",
        "pocket-code": "pass@1",
        "pocket-stories": "perplexity",
    }
    assert score.value == (skills["pocket-math"]["value"] + skills["pocket-code"]["value"]) / 2
    assert score.value >= 0.5
    assert 1 < skills["pocket-stories"]["value"] < 100
