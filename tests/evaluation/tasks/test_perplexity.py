"""Perplexity: transformers' own loss, a token at a time, whatever the batches and the padding."""

from __future__ import annotations

import importlib
import math
import random
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, POSITIONS, T5, WORDS, Architecture, tiny_tokenizer

from eckart.evaluation import perplexity
from eckart.types import EckartError, Text, UsageError


@pytest.fixture
def tokenizer() -> Any:
    """One that begins every text with BOS."""
    return tiny_tokenizer(bos=True)


MODULE = importlib.import_module("eckart.evaluation.tasks.perplexity")
BOS, PAD = 1, 0
DECODERS = [LLAMA, GPT2]


def make_texts(count: int, longest: int = 30, seed: int = 0) -> list[Text]:
    chosen = random.Random(seed)

    def words(least: int, most: int) -> str:
        return " ".join(chosen.choices(WORDS, k=chosen.randint(least, most)))

    return [Text(words(1, longest) + " ", words(1, 12)) for _ in range(count)]


@torch.no_grad()
def own_loss(model: Any, tokenizer: Any, texts: list[Text]) -> tuple[float, int]:
    """Mean loss by transformers itself, each text alone and unpadded, and over how many tokens."""
    total, count = 0.0, 0
    for text in texts:
        if model.config.is_encoder_decoder:
            batch = {"input_ids": tokenizer(text.prompt)["input_ids"]}
            batch["labels"] = tokenizer(text.completion)["input_ids"]
            tokens = len(batch["labels"])
        else:
            ids = [BOS, *tokenizer(text.text)["input_ids"]][:POSITIONS]
            batch, tokens = {"input_ids": ids, "labels": ids}, len(ids) - 1
        loss = model(**{name: torch.tensor([ids]) for name, ids in batch.items()}).loss
        total, count = total + float(loss) * tokens, count + tokens
    return total / count, count


@pytest.mark.parametrize("architecture", [*DECODERS, T5], ids=str)
def test_the_loss_is_transformers_own(architecture: Architecture, tokenizer: Any) -> None:
    model, texts = architecture.build(), make_texts(20)
    score = perplexity(model, tokenizer, texts)
    loss, tokens = own_loss(model, tokenizer, texts)
    assert score.details["tokens"] == tokens
    assert score.details["loss"] == pytest.approx(loss, rel=1e-6)
    assert score.value == math.exp(score.details["loss"])
    assert (score.task, score.metric) == ("perplexity", "perplexity")


@pytest.mark.parametrize("architecture", [*DECODERS, T5], ids=str)
def test_the_loss_is_that_of_every_other_order_and_size_of_batches(
    architecture: Architecture, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, texts = architecture.build(), make_texts(20)
    whole = perplexity(model, tokenizer, texts)
    for tokens in (1, 40, 100):
        monkeypatch.setattr(MODULE, "BATCH_TOKENS", tokens)
        batched = perplexity(model, tokenizer, texts[::-1])
        assert batched.details["tokens"] == whole.details["tokens"]
        assert batched.details["loss"] == pytest.approx(whole.details["loss"], rel=1e-6)


def test_a_large_vocabulary_makes_small_batches(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, texts = LLAMA.build(), make_texts(20, longest=10)
    sizes: list[int] = []
    model.register_forward_hook(lambda module, given, answer: sizes.append(answer.logits.numel()))
    monkeypatch.setattr(MODULE, "BATCH_LOGITS", 50 * model.config.vocab_size)
    perplexity(model, tokenizer, texts)
    assert len(sizes) > 5
    assert max(sizes) <= 50 * model.config.vocab_size


@pytest.mark.parametrize("architecture", [*DECODERS, T5], ids=str)
def test_what_padding_looks_like_to_the_model_does_not_matter(
    architecture: Architecture, tokenizer: Any
) -> None:
    model, texts = architecture.build(), make_texts(12)
    # T5 starts writing from its padding token, so there the encoder's padding alone may change.
    table = model.get_input_embeddings()
    if architecture is T5:
        model.encoder.embed_tokens = table = torch.nn.Embedding.from_pretrained(table.weight.clone())
    before = perplexity(model, tokenizer, texts).details["loss"]
    with torch.no_grad():
        table.weight[PAD] += 100 * torch.randn(table.weight.shape[1])
    if architecture is GPT2:
        # Its head is tied: the padding token's logit changed too, and that is no padding.
        loss, _ = own_loss(model, tokenizer, texts)
        assert perplexity(model, tokenizer, texts).details["loss"] == pytest.approx(loss, rel=1e-6)
    else:
        assert perplexity(model, tokenizer, texts).details["loss"] == pytest.approx(before, rel=1e-6)


def test_a_tokenizer_needs_no_padding_token(tokenizer: Any) -> None:
    model, texts = LLAMA.build(), make_texts(10)
    bare = tiny_tokenizer(bos=True)
    bare.pad_token = None
    assert bare.pad_token_id is None
    expected = perplexity(model, tokenizer, texts).details
    found = perplexity(model, bare, texts).details
    assert found["tokens"] == expected["tokens"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_an_encoder_decoder_is_scored_on_what_it_should_write(tokenizer: Any) -> None:
    model = T5.build()
    score = perplexity(model, tokenizer, [Text("w1 w2 w3", "w4 w5"), Text("w6", "")])
    assert score.details["tokens"] == 2
    assert score.details["windows"] == 1
    other = perplexity(model, tokenizer, [Text("w1 w2 w9", "w4 w5")])
    assert other.details["loss"] != score.details["loss"]


def test_a_loss_in_half_precision_is_summed_in_full(tokenizer: Any) -> None:
    texts = make_texts(200, longest=40)
    full = perplexity(LLAMA.build(), tokenizer, texts).details["loss"]
    half = perplexity(LLAMA.build(torch.bfloat16), tokenizer, texts).details["loss"]
    assert half != full
    assert half == pytest.approx(full, rel=1e-3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_an_error(tokenizer: Any, value: float) -> None:
    model = LLAMA.build()
    with torch.no_grad():
        model.lm_head.weight[7, 3] = value
    with pytest.raises(EckartError, match="not finite"):
        perplexity(model, tokenizer, make_texts(3))


def test_a_perplexity_that_no_number_holds_is_an_error(tokenizer: Any) -> None:
    model = LLAMA.build()
    with torch.no_grad():
        model.lm_head.weight *= 1e5
    with pytest.raises(EckartError, match="nats a token"):
        perplexity(model, tokenizer, make_texts(3))


def test_a_guessing_model_has_the_vocabulary_as_perplexity(tokenizer: Any) -> None:
    model = LLAMA.build()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert perplexity(model, tokenizer, make_texts(5)).value == pytest.approx(model.config.vocab_size)


def test_an_encoder_has_no_perplexity(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="BertModel predicts no next token"):
        perplexity(BERT.build(), tokenizer, make_texts(3))


def test_texts_of_one_token_have_nothing_to_predict(tokenizer: Any) -> None:
    bare = tiny_tokenizer(bos=True)
    bare.bos_token = None
    with pytest.raises(UsageError, match="nothing to predict"):
        perplexity(LLAMA.build(), bare, [Text("", "w1"), Text("", "w2")])
