"""A model beside the dense one, token by token: what llama.cpp's perplexity tool reports, and repetition."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eckart.evaluation.asking import Request
from eckart.evaluation.generation import generate
from eckart.evaluation.score import Score
from eckart.evaluation.tasks.perplexity import perplexity_of, predicting
from eckart.model.text import Window, batches, is_causal, usable_length, windows
from eckart.types import MAX_LENGTH, EckartError, UsageError

BATCH_LOGITS = 2**26
"""Of each model at most: 256 MiB in float32."""
ROWS = 512
"""Tokens whose distributions are compared at once."""
CONTINUED, BEGINNING, NEW_TOKENS = 16, 32, 64
"""Windows that are continued, from so many of their tokens, by so many."""
GRAM = 4


@torch.no_grad()
def against(request: Request) -> Score:
    """Perplexity, and how far what the model says of the next token is from what the dense one says.

    Over every token that has one before it in its window, of a chat over what the assistant says:

    - `divergence`: the mean of `KL(dense ‖ model)` in nats, with `divergence_median` and `divergence_99`,
      which 99% of the tokens stay below.
    - `same_top`: the share of tokens where both find the same one likeliest.
    - `perplexity_ratio`: how many times the dense model's perplexity.

    Each `…_error` is a standard error, for windows drawn anew: tokens of one window depend on each other. It
    is `None` of one window.

    - `repetition`, `dense_repetition`: of greedy continuations of the windows' beginnings, the share of runs
      of 4 tokens that came before in the same continuation (Welleck et al. 2020, seq-rep-4). Of decoders.

    Raises:
        UsageError: a model predicts no tokens.
        EckartError: what a model says is not finite.
    """
    model, dense, tokenizer = request.model, request.against, request.tokenizer
    for each in (model, dense):
        if not each.can_generate():
            raise UsageError(
                f"{type(each).__name__} predicts no next token: --against compares what is said of it"
            )
    longest, limit = request.settings.max_length or MAX_LENGTH, request.settings.limit
    cut = windows(model, tokenizer, request.material, longest)[
        : limit if len(request.material) == 1 else None
    ]
    vocabulary = model.config.get_text_config().vocab_size
    groups = batches(model, tokenizer, cut, max(1, BATCH_LOGITS // vocabulary), said=True)
    rows = [
        row
        for batch in request.track(groups, "comparing", len(groups))
        for row in compared(model, dense, batch)
    ]
    rows = [row for row in rows if row.shape[1]]
    if not rows:
        raise UsageError("no token in the data has one before it: there is nothing to predict")
    if not all(bool(np.isfinite(row).all()) for row in rows):
        raise EckartError("a model says what is not finite: it is broken, or overflows in this dtype")
    every = np.concatenate(rows, axis=1)
    (loss, _), (before, _), (divergence, off), (same, unsure) = (_mean(rows, at) for at in range(4))
    ratio, relative = _mean([row[:1] - row[1:2] for row in rows], 0)
    details = {
        "loss": loss,
        "tokens": every.shape[1],
        "windows": len(rows),
        "dense_perplexity": perplexity_of(before),
        "perplexity_ratio": math.exp(ratio),
        "perplexity_ratio_error": relative and math.exp(ratio) * relative,
        "divergence": divergence,
        "divergence_error": off,
        "divergence_median": float(np.median(every[2])),
        "divergence_99": float(np.quantile(every[2], 0.99)),
        "same_top": same,
        "same_top_error": unsure,
    }
    return Score(request.task, "perplexity", perplexity_of(loss), details | _repetitions(request, cut))


@torch.no_grad()
def compared(model: Any, dense: Any, batch: dict[str, Tensor]) -> Iterator[np.ndarray]:
    """Of each window `(4, tokens)`: loss of the model and of the dense one, divergence, one top or not."""
    here, labels = predicting(model, batch)
    there, _ = predicting(dense, batch)
    for said, meant, label in zip(here, there.to(here.device), labels, strict=True):
        at = (label >= 0).nonzero().flatten()
        parts = [_compared(said[some], meant[some], label[some]) for some in at.split(ROWS)]
        yield torch.cat(parts, 1).double().cpu().numpy() if parts else np.empty((4, 0))


def _compared(said: Tensor, meant: Tensor, label: Tensor) -> Tensor:
    after, before = (nn.functional.log_softmax(logits.float(), -1) for logits in (said, meant))
    chosen = label[:, None]
    return torch.stack(
        [
            -after.gather(1, chosen)[:, 0],
            -before.gather(1, chosen)[:, 0],
            (before.exp() * (before - after)).sum(-1).clamp_min(0),
            (after.argmax(-1) == before.argmax(-1)).float(),
        ]
    )


def _mean(rows: Sequence[np.ndarray], at: int) -> tuple[float, float | None]:
    """Mean over tokens, and its standard error where windows are what was drawn."""
    sums, counts = np.array([row[at].sum() for row in rows]), np.array([row.shape[1] for row in rows])
    mean = float(sums.sum() / counts.sum())
    if len(rows) == 1:
        return mean, None
    spread = ((sums - mean * counts) ** 2).sum() * len(rows) / (len(rows) - 1)
    return mean, float(np.sqrt(spread) / counts.sum())


def _repetitions(request: Request, cut: Sequence[Window]) -> dict[str, float]:
    model, tokenizer = request.model, request.tokenizer
    room = usable_length(model, tokenizer, BEGINNING + NEW_TOKENS)
    if not is_causal(model) or room <= GRAM:
        return {}
    begin = min(BEGINNING, room // 3)
    some = [cut[at * len(cut) // CONTINUED] for at in range(CONTINUED)] if len(cut) > CONTINUED else cut
    prompts = [tokenizer.decode(window.ids[:begin], skip_special_tokens=True) for window in some]
    prompts = [prompt for prompt in prompts if prompt.strip()]
    if not prompts:
        return {}
    found = {}
    for name, each in (("repetition", model), ("dense_repetition", request.against)):
        written = generate(each, tokenizer, prompts, room - begin, request.track)
        found[name] = repetition([tokenizer(text, add_special_tokens=False)["input_ids"] for text in written])
    return found


def repetition(rows: Sequence[Sequence[int]]) -> float:
    """The share of runs of 4 tokens that came before in their row; 0 where there are none."""
    grams = [[tuple(row[at : at + GRAM]) for at in range(len(row) - GRAM + 1)] for row in rows]
    every = sum(map(len, grams))
    return 1 - sum(len(set(row)) for row in grams) / every if every else 0.0
