"""ROUGE is rouge-score's, and the loss of completions is transformers' own."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import GPT2, LLAMA, POSITIONS, T5, WORDS, Architecture, tiny_tokenizer
from rouge_score.rouge_scorer import RougeScorer

from eckart import evaluate
from eckart.data import read_texts
from eckart.evaluation.tasks.summaries import KINDS, completion_loss, rouge
from eckart.types import EckartError, Text


@pytest.fixture
def tokenizer() -> Any:
    """One that begins every text with BOS."""
    return tiny_tokenizer(bos=True)


SHARED = Path(__file__).parents[4] / "shared" / "data" / "tasks" / "samsum_test.arrow"
BOS = 1


def make_texts(count: int = 12, longest: int = 30) -> list[Text]:
    chosen = random.Random(3)

    def words(least: int, most: int) -> str:
        return " ".join(chosen.choices(WORDS, k=chosen.randint(least, most)))

    return [Text(words(1, longest), " " + words(1, 12)) for _ in range(count)]


@torch.no_grad()
def own_loss(model: Any, tokenizer: Any, texts: list[Text]) -> tuple[float, int]:
    """By transformers itself: each text alone, the prompt's labels taken out."""
    total, count = 0.0, 0
    for text in texts:
        prompt, completion = (tokenizer(words)["input_ids"] for words in (text.prompt, text.completion))
        if model.config.is_encoder_decoder:
            batch = {"input_ids": prompt, "labels": completion}
        else:
            over = max(0, 1 + len(prompt) + len(completion) - POSITIONS)
            prompt = [BOS, *prompt][over:]
            batch = {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}
        loss = model(**{name: torch.tensor([ids]) for name, ids in batch.items()}).loss
        total, count = total + float(loss) * len(completion), count + len(completion)
    return total / count, count


@pytest.mark.parametrize("architecture", [GPT2, LLAMA, T5], ids=str)
def test_the_loss_is_over_completions_alone_and_transformers_own(
    architecture: Architecture, tokenizer: Any
) -> None:
    model, texts = architecture.build(), make_texts()
    loss, tokens = completion_loss(model, tokenizer, texts)
    expected, count = own_loss(model, tokenizer, texts)
    assert tokens == count
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("architecture", [GPT2, LLAMA], ids=str)
def test_a_text_that_is_too_long_loses_the_beginning_of_its_prompt(
    architecture: Architecture, tokenizer: Any
) -> None:
    model = architecture.build()
    texts = [Text(" ".join(WORDS[:80]), " w1 w2 w3"), *make_texts(3)]
    loss, tokens = completion_loss(model, tokenizer, texts)
    expected, count = own_loss(model, tokenizer, texts)
    assert tokens == count
    assert loss == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_not_finite_is_an_error(tokenizer: Any) -> None:
    model = LLAMA.build()
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(EckartError, match="not finite"):
        completion_loss(model, tokenizer, make_texts())


@pytest.mark.parametrize(
    ("written", "reference"),
    [
        ("Amanda baked cookies.", "Amanda bakes cookies and brings some to Jerry."),
        ("one line\nand another", "and another\none line"),
        ("nothing in common", "words"),
        ("", "words"),
        ("the same", "the same"),
    ],
)
def test_rouge_is_that_of_rouge_score(written: str, reference: str) -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=True)
    expected = {kind: score.fmeasure for kind, score in scorer.score(reference, written).items()}
    assert rouge(written, reference) == expected


def test_rouge_of_lines_in_another_order_differs_in_lsum_alone() -> None:
    found = rouge("one line\nand another", "and another\none line")
    assert found["rougeLsum"] == found["rouge1"] == 1
    assert found["rougeL"] < 1


def test_a_score_is_the_mean_over_answers_times_100(
    stored: Any, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = read_texts(data)
    written = [text.completion if place % 2 else "nothing" for place, text in enumerate(texts)]
    monkeypatch.setattr("eckart.evaluation.asking.write", answering(written))
    score = evaluate(stored(LLAMA), "pairs", data)
    assert score.metric == "rouge1"
    assert score.value == score.details["rouge1"] == pytest.approx(50)
    assert set(KINDS) < set(score.details)
    loss, tokens = completion_loss(LLAMA.load(stored(LLAMA)), tokenizer_of(stored), texts)
    assert (score.details["loss"], score.details["tokens"]) == (pytest.approx(loss), tokens)


@pytest.mark.skipif(not SHARED.is_file(), reason=f"no {SHARED}: the real data are not here")
def test_samsum_is_read_and_its_summaries_are_right_by_themselves() -> None:
    texts = read_texts(str(SHARED))
    assert len(texts) == 819
    assert all(text.prompt.startswith("Dialogue:\n") and text.prompt.endswith("\nSummary:") for text in texts)
    assert all("\r" not in text.text for text in texts)
    assert {rouge(text.completion, text.completion)["rouge2"] for text in texts[:50]} == {1.0}


def tokenizer_of(stored: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(stored(LLAMA))


def answering(written: list[str]) -> Any:
    """Stands for a model that writes these."""
    from eckart.evaluation.generation import Written

    def write(model: Any, tokenizer: Any, prompts: list[str], *_: Any, **options: Any) -> Any:
        assert len(prompts) == len(written)
        yield [
            Written(index, text, True, False)
            for index, text in enumerate(written)
            if index not in options["done"]
        ]

    return write
