"""Divergence is the KL of what a model says now from what it said before, padding excluded."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5

from eckart.data import read_texts
from eckart.evaluation import Reference, perplexity
from eckart.model.text import batches, windows


def held(model: Any, tokenizer: Any, data: str, tokens: int = 60) -> list[dict[str, torch.Tensor]]:
    return batches(model, tokenizer, windows(model, tokenizer, read_texts(data), 64), tokens)


def shaken(model: Any, amount: float = 0.1) -> Any:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(amount * parameter.std() * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, T5, BERT], ids=str)
def test_model_that_did_not_change_has_not_moved(architecture, tokenizer, data):
    model = architecture.build()
    reference = Reference(held(model, tokenizer, data), model)
    assert reference.of(model) == reference.before
    assert reference.before.divergence < 1e-6
    assert reference.of(shaken(model)).divergence > 1e-3


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_divergence_is_the_mean_kl_over_real_tokens(architecture, tokenizer, data):
    model = architecture.build()
    given = held(model, tokenizer, data)
    reference = Reference(given, model)
    changed = shaken(architecture.build())
    total, count = 0.0, 0
    for batch in given:
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        with torch.no_grad():
            before, after = (m(**inputs).logits.log_softmax(-1)[mask] for m in (model, changed))
        total += float(torch.nn.functional.kl_div(after, before, log_target=True, reduction="sum"))
        count += len(before)
    assert reference.of(changed).divergence == pytest.approx(total / count, rel=1e-5)
    assert reference.tokens == count


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_loss_is_that_of_perplexity(architecture, tokenizer, data):
    model = architecture.build()
    texts = read_texts(data)
    expected = perplexity(model, tokenizer, texts, 64).details["loss"]
    assert Reference(held(model, tokenizer, data), model).before.loss == pytest.approx(expected, rel=1e-6)


def test_padding_changes_nothing(tokenizer, data):
    model = LLAMA.build()
    padded, alone = (Reference(held(model, tokenizer, data, tokens), model) for tokens in (400, 1))
    changed = shaken(LLAMA.build())
    assert padded.of(changed).divergence == pytest.approx(alone.of(changed).divergence, rel=1e-4)
    assert padded.tokens == alone.tokens


def test_model_that_overflows_has_moved_infinitely_far(tokenizer, data):
    model = LLAMA.build()
    reference = Reference(held(model, tokenizer, data), model)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.fill_(math.inf)
    assert reference.of(model).divergence == reference.of(model).loss == math.inf


def test_model_stays_in_the_mode_it_was_in(tokenizer, data):
    model = LLAMA.build().train()
    Reference(held(model, tokenizer, data), model)
    assert model.training
