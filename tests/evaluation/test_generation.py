"""Writing in batches: the same as one prompt at a time, and greedy whatever the model's own settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import GPT2, LLAMA, SPECIAL, T5, WORDS, Architecture, tiny_tokenizer

from eckart.evaluation.generation import generate

NEW_TOKENS = 8
PROMPTS = [
    " ".join(WORDS[start : start + length]) for start, length in enumerate([3, 17, 1, 9, 9, 25, 2, 14])
]
WRITERS = pytest.mark.parametrize("architecture", [GPT2, LLAMA, T5], ids=str)


def one_at_a_time(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """By transformers' own `generate`, each prompt alone and unpadded."""
    written = []
    for prompt in prompts:
        start = [] if model.config.is_encoder_decoder else [tokenizer.bos_token_id]
        ids = torch.tensor([start + tokenizer(prompt)["input_ids"]])
        tokens = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        fresh = tokens[0] if model.config.is_encoder_decoder else tokens[0, ids.shape[1] :]
        text = tokenizer.decode(fresh, skip_special_tokens=True)
        written.append(f" {text}" if text and start else text)
    return written


@WRITERS
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_write_what_single_prompts_do_in_their_order(
    architecture: Architecture, tokenizer: Any, batch_size: int
) -> None:
    model = architecture.build()
    expected = one_at_a_time(model, tokenizer, PROMPTS)
    assert len(set(expected)) > len(PROMPTS) // 2
    assert generate(model, tokenizer, PROMPTS, NEW_TOKENS, batch_size=batch_size) == expected
    assert generate(model, tokenizer, PROMPTS[::-1], NEW_TOKENS, batch_size=batch_size) == expected[::-1]


@WRITERS
def test_a_tokenizer_needs_no_padding_token(architecture: Architecture, tokenizer: Any) -> None:
    model, bare = architecture.build(), tiny_tokenizer()
    bare.pad_token = None
    assert generate(model, bare, PROMPTS, NEW_TOKENS) == generate(model, tokenizer, PROMPTS, NEW_TOKENS)


@WRITERS
def test_writing_is_greedy_whatever_the_model_asks_for(architecture: Architecture, tokenizer: Any) -> None:
    model = architecture.build()
    expected = generate(model, tokenizer, PROMPTS, NEW_TOKENS)
    model.generation_config.update(do_sample=True, temperature=5.0, num_beams=4)
    assert generate(model, tokenizer, PROMPTS, NEW_TOKENS) == expected


@WRITERS
def test_only_what_is_new_is_given_back_without_special_tokens(
    architecture: Architecture, tokenizer: Any
) -> None:
    written = generate(architecture.build(), tokenizer, PROMPTS, NEW_TOKENS)
    for text, prompt in zip(written, PROMPTS, strict=True):
        assert len(text.split()) <= NEW_TOKENS
        assert not set(SPECIAL) & set(text.split())
        assert not (len(prompt.split()) > NEW_TOKENS and text.startswith(prompt))
    assert any(written)


def test_no_prompts_give_no_texts(tokenizer: Any) -> None:
    assert generate(LLAMA.build(), tokenizer, [], NEW_TOKENS) == []
