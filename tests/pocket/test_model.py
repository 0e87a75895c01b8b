"""The shipped model: an ordinary Hugging Face folder that can do what it was trained for."""

from __future__ import annotations

import json
import math
from itertools import islice

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eckart.pocket import MODEL_DIR, samples
from eckart.pocket.grading import grade_code, grade_math
from eckart.pocket.score import complete, completion_loss
from eckart.pocket.tokenizer import build_tokenizer

pytestmark = pytest.mark.skipif(
    not (MODEL_DIR / "model.safetensors").exists(), reason="no trained weights yet"
)


@pytest.fixture(scope="module")
def tokenizer():  # type: ignore[no-untyped-def]
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def model():  # type: ignore[no-untyped-def]
    return AutoModelForCausalLM.from_pretrained(MODEL_DIR, dtype=torch.float32).eval()


def test_folder_is_small_and_names_no_path() -> None:
    assert (MODEL_DIR / "model.safetensors").stat().st_size <= 10 * 2**20
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        text = (MODEL_DIR / name).read_text()
        json.loads(text)
        assert not any(path in text for path in ("/tmp", "/work", "/root", "/home"))


def test_weights_are_bf16_and_embeddings_tied() -> None:
    plain = AutoModelForCausalLM.from_pretrained(MODEL_DIR)
    assert plain.dtype == torch.bfloat16
    assert plain.lm_head.weight is plain.model.embed_tokens.weight
    assert plain.num_parameters() == 2_558_400


def test_loaded_tokenizer_adds_bos_only(tokenizer) -> None:  # type: ignore[no-untyped-def]
    ids = tokenizer("Tom has 3 apples.\n")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] != tokenizer.eos_token_id


def test_shipped_tokenizer_is_the_one_the_generator_gives(tokenizer) -> None:  # type: ignore[no-untyped-def]
    # Fails when the generator drifts from the text the weights were trained on.
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


def test_committed_scores_reach_the_bars() -> None:
    scores = json.loads((MODEL_DIR.parent / "scores.json").read_text())
    assert scores["samples"] >= 200
    assert scores["math_exact_match"] >= 0.95
    assert scores["code_pass_at_1"] >= 0.90


def test_solves_most_held_out_problems(model, tokenizer) -> None:  # type: ignore[no-untyped-def]
    drawn = list(islice(samples("math", "test", seed=11), 10))
    texts = complete(model, tokenizer, [s.prompt for s in drawn])
    assert sum(grade_math(t, s) for t, s in zip(texts, drawn, strict=True)) >= 8


def test_writes_most_held_out_functions(model, tokenizer) -> None:  # type: ignore[no-untyped-def]
    drawn = list(islice(samples("code", "test", seed=11), 10))
    assert sum(grade_code(complete(model, tokenizer, [s.prompt for s in drawn]), drawn)) >= 8


def test_predicts_held_out_stories(model, tokenizer) -> None:  # type: ignore[no-untyped-def]
    drawn = list(islice(samples("stories", "test", seed=11), 20))
    assert completion_loss(model, tokenizer, drawn) < 0.2 * math.log(len(tokenizer))
