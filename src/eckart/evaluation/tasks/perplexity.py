"""Perplexity: the exponential of the mean loss per predicted token."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eckart.evaluation.score import Score
from eckart.linalg import wide_products
from eckart.model.text import IGNORED, SAID, batches, next_tokens, windows
from eckart.types import MAX_LENGTH, EckartError, Text, Track, UsageError, silent

LARGEST_LOSS = math.log(sys.float_info.max)
BATCH_TOKENS = 8192
BATCH_LOGITS = 2**28
"""At most, however large the vocabulary: 1 GiB in float32, and a few times that while they are worked on."""


@torch.no_grad()
def perplexity(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    max_length: int = MAX_LENGTH,
    track: Track = silent,
    task: str = "perplexity",
    limit: int | None = None,
) -> Score:
    """Mean loss in nats over every token that has one before it in its window; padding excluded.

    An encoder-decoder is scored on the tokens it should write, and a chat on what the assistant says. Losses
    are summed in float64.

    Args:
        limit: windows at most, of one text: it is running text, which has no pieces of its own to count.

    Raises:
        UsageError: a model that predicts no tokens.
        EckartError: a loss that is not finite, or whose exponential is not.
    """
    if not model.can_generate():
        raise UsageError(f"{type(model).__name__} predicts no next token, so it has no perplexity")
    total, tokens = 0.0, 0
    cut = windows(model, tokenizer, texts, max_length)[: limit if len(texts) == 1 else None]
    vocabulary = model.config.get_text_config().vocab_size
    at_once = min(BATCH_TOKENS, BATCH_LOGITS // vocabulary)
    groups = batches(model, tokenizer, cut, at_once, said=True)
    for batch in track(groups, "perplexity", len(groups)):
        loss, count = _loss(model, batch)
        total, tokens = total + loss, tokens + count
    if not math.isfinite(total):
        raise EckartError("the loss is not finite: the model is broken, or overflows in this dtype")
    if not tokens:
        raise UsageError("no token in the data has one before it: there is nothing to predict")
    loss = total / tokens
    details = {"loss": loss, "tokens": tokens, "windows": len(cut)}
    return Score(task, "perplexity", perplexity_of(loss), details)


def perplexity_of(loss: float) -> float:
    """Its exponential.

    Raises:
        EckartError: it has none.
    """
    if loss > LARGEST_LOSS:
        raise EckartError(
            f"the loss is {loss:,.0f} nats a token, where guessing has about 10: the model is broken"
        )
    return math.exp(loss)


def predicting(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits `(windows, tokens, vocabulary)`, and what each should say: `IGNORED` where nothing."""
    inputs = {key: value.to(model.device) for key, value in batch.items()}
    labels, said = inputs.pop("labels", None), inputs.pop(SAID, None)
    with wide_products():
        logits = model(**inputs).logits
    if labels is not None:
        return logits, labels
    labels = next_tokens(inputs["input_ids"], inputs["attention_mask"].bool())[:, :-1]
    if said is not None:
        labels = labels.masked_fill(said[:, 1:] == 0, IGNORED)
    return logits[:, :-1], labels


def _loss(model: Any, batch: dict[str, Tensor]) -> tuple[float, int]:
    """Summed loss and how many tokens it is over."""
    logits, labels = predicting(model, batch)
    losses = nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]).float(),
        labels.reshape(-1),
        reduction="none",
        ignore_index=IGNORED,
    )
    return float(losses.sum(dtype=torch.float64)), int((labels != IGNORED).sum())
