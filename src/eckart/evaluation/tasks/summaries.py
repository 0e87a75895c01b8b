"""Prompts with references in free words, as SAMSum's summaries: loss, and ROUGE of what is written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from eckart.evaluation.asking import BETWEEN, Request, ask, counts, shown
from eckart.evaluation.score import Score
from eckart.evaluation.tasks.perplexity import BATCH_LOGITS, BATCH_TOKENS, perplexity
from eckart.linalg import wide_products
from eckart.model.text import begun, is_encoder_decoder, padded, usable_length
from eckart.types import EckartError, Text, Track, UsageError, silent

KINDS = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def samsum(request: Request) -> Score:
    """ROUGE and loss of summaries of dialogues."""
    return _summarised(request, (BETWEEN, "Dialogue:"))


def pairs(request: Request) -> Score:
    """ROUGE and loss of any prompts with completions; worked examples make an empty line the end."""
    return _summarised(request, (BETWEEN,) if request.settings.examples else ())


def _summarised(request: Request, stop: tuple[str, ...]) -> Score:
    """Mean ROUGE F, times 100 as in papers; the value is ROUGE-1. The loss is in nats a completion token."""
    references = [text.completion.strip() for text in request.material]

    def grade(index: int, written: str) -> dict[str, object]:
        return {"reference": references[index], **rouge(written.strip(), references[index])}

    prompts = [text.prompt for text in request.material]
    answers = ask(request, prompts, grade, stop=stop, max_new_tokens=128)
    means = {kind: 100 * sum(answer[kind] for answer in answers) / len(answers) for kind in KINDS}
    loss, tokens = completion_loss(
        request.model,
        request.tokenizer,
        [Text(shown(text.prompt, request.settings.examples), text.completion) for text in request.material],
        request.settings.max_length or sys.maxsize,
        request.track,
    )
    return Score(
        request.task, "rouge1", means["rouge1"], {**means, "loss": loss, "tokens": tokens, **counts(answers)}
    )


@cache
def _scorer() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError:
        raise UsageError('ROUGE is not here: pip install "eckart[eval]"') from None
    return RougeScorer(KINDS, use_stemmer=True)


def rouge(written: str, reference: str) -> dict[str, float]:
    """F of ROUGE-1, 2, L and Lsum by `rouge-score`, from 0 to 1, words stemmed.

    Lsum compares line by line, as texts came: nothing splits them into sentences.
    """
    return {kind: float(score.fmeasure) for kind, score in _scorer().score(reference, written).items()}


@torch.no_grad()
def completion_loss(
    model: Any, tokenizer: Any, texts: Sequence[Text], max_length: int = sys.maxsize, track: Track = silent
) -> tuple[float, int]:
    """Mean loss in nats over the tokens of the completions alone, and how many there are.

    A text that is too long loses the beginning of its prompt.

    Raises:
        EckartError: a loss that is not finite.
    """
    if is_encoder_decoder(model):
        details = perplexity(model, tokenizer, texts, max_length, track).details
        return details["loss"], details["tokens"]
    longest = usable_length(model, tokenizer, max_length)
    rows = sorted((_placed(tokenizer, text, longest) for text in texts), key=lambda row: -len(row[0]))
    budget = min(BATCH_TOKENS, BATCH_LOGITS // model.config.get_text_config().vocab_size)
    groups: list[list[tuple[list[int], int]]] = []
    for row in rows:
        if not groups or (len(groups[-1]) + 1) * len(groups[-1][0][0]) > budget:
            groups.append([])
        groups[-1].append(row)
    total, tokens = 0.0, 0
    for group in track(groups, "loss", len(groups)):
        batch = padded(model, tokenizer, [ids for ids, _ in group])
        with wide_products():
            logits = model(**batch).logits
        for place, (ids, first) in enumerate(group):
            said = logits[place, first - 1 : len(ids) - 1].float()
            written = batch["input_ids"][place, first : len(ids)]
            losses = nn.functional.cross_entropy(said, written, reduction="none")
            total, tokens = total + float(losses.sum(dtype=torch.float64)), tokens + len(ids) - first
    if not tokens or not abs(total) < float("inf"):
        raise EckartError("the loss is not finite: the model is broken, or overflows in this dtype")
    return total / tokens, tokens


def _placed(tokenizer: Any, text: Text, longest: int) -> tuple[list[int], int]:
    """Token ids, and the place of the first that is the completion's and has one before it."""
    prompt, ids = (begun(tokenizer, tokenizer(words)["input_ids"]) for words in (text.prompt, text.text))
    # A tokenizer's own end stands behind the prompt, and a word may go on across the two.
    same = (one == other for one, other in zip(prompt, ids, strict=False))
    first = next((place for place, equal in enumerate(same) if not equal), min(len(prompt), len(ids)))
    over = max(0, len(ids) - longest)
    return ids[over:], max(1, first - over)
