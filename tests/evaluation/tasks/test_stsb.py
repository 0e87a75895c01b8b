"""STS-B: mean pooling over real tokens alone, and scipy's rank correlation."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from architectures import BERT, LLAMA, POSITIONS, T5, WORDS, tiny_tokenizer
from scipy.stats import spearmanr
from torch import Tensor

from eckart.evaluation import stsb
from eckart.evaluation.tasks.stsb import embed
from eckart.types import EckartError, UsageError

PAD = 0


def sentences(count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 20))) for _ in range(count)]


@torch.no_grad()
def alone(model: Any, tokenizer: Any, sentence: str) -> Tensor:
    """The mean of the last hidden states of one sentence, unpadded."""
    ids = torch.tensor([tokenizer(sentence)["input_ids"]])
    return model(input_ids=ids).last_hidden_state[0].mean(0)


def cosine(one: Tensor, other: Tensor) -> float:
    return float(one @ other / (one.norm() * other.norm()))


def test_embeddings_are_means_over_real_tokens_in_the_order_given(tokenizer: Any) -> None:
    model, texts = BERT.build(), sentences(150)
    found = embed(model, tokenizer, texts)
    expected = torch.stack([alone(model, tokenizer, text) for text in texts])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_padding_is_ignored(tokenizer: Any) -> None:
    model, texts = BERT.build(), sentences(20)
    before = embed(model, tokenizer, texts)
    with torch.no_grad():
        model.get_input_embeddings().weight[PAD] += 100
    torch.testing.assert_close(embed(model, tokenizer, texts), before, rtol=1e-4, atol=1e-5)


def test_a_tokenizer_needs_no_padding_token(tokenizer: Any) -> None:
    model, texts, bare = BERT.build(), sentences(20), tiny_tokenizer()
    bare.pad_token = None
    found, expected = embed(model, bare, texts), embed(model, tokenizer, texts)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_value_is_scipys_rank_correlation_of_the_cosines(tokenizer: Any) -> None:
    model, texts = BERT.build(), sentences(40)
    chosen = random.Random(1)
    pairs = [(float(chosen.randint(0, 5)), *chosen.sample(texts, 2)) for _ in range(60)]
    cosines = [cosine(alone(model, tokenizer, a), alone(model, tokenizer, b)) for _, a, b in pairs]
    score = stsb(model, tokenizer, pairs)
    assert score.value == pytest.approx(
        spearmanr(cosines, [score for score, _, _ in pairs]).statistic, abs=1e-4
    )
    assert (score.task, score.metric, score.details) == ("stsb", "spearman", {"pairs": 60})


def test_scores_in_the_models_own_order_give_1_and_reversed_minus_1(tokenizer: Any) -> None:
    model, texts = BERT.build(), sentences(20)
    both = list(zip(texts[:10], texts[10:], strict=True))
    cosines = [cosine(alone(model, tokenizer, a), alone(model, tokenizer, b)) for a, b in both]
    for sign in (1, -1):
        pairs = [(sign * value, a, b) for value, (a, b) in zip(cosines, both, strict=True)]
        assert stsb(model, tokenizer, pairs).value == pytest.approx(sign)


def test_a_sentence_is_cut_at_what_the_model_can_read(tokenizer: Any) -> None:
    model, endless = BERT.build(), tiny_tokenizer()
    endless.model_max_length = 10**30
    long = " ".join(WORDS[:90])
    cut = " ".join(long.split()[:POSITIONS])
    found = embed(model, endless, [long], max_length=512)
    torch.testing.assert_close(found[0], alone(model, tokenizer, cut), rtol=1e-4, atol=1e-5)


def test_an_embedding_that_is_not_finite_is_an_error(tokenizer: Any) -> None:
    model = BERT.build()
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[3, 4] = float("nan")
    with pytest.raises(EckartError, match="not finite"):
        embed(model, tokenizer, sentences(3))


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_a_model_without_hidden_states_to_pool_is_refused(architecture: Any, tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="stsb is for encoders"):
        embed(architecture.build(), tokenizer, sentences(3))


def test_scores_without_an_order_are_refused(tokenizer: Any) -> None:
    for pairs in ([(1.0, "w1", "w2")], [(1.0, "w1", "w2"), (1.0, "w3", "w4")]):
        with pytest.raises(UsageError, match="two scores that differ"):
            stsb(BERT.build(), tokenizer, pairs)
