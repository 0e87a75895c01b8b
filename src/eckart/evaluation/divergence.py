"""How far a model has moved from what it said before, on the same windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eckart.model.text import Batch
from eckart.types import EckartError

REFERENCE_BYTES = 2**28
"""At most, for what the dense model said: 256 MiB."""


@dataclass(frozen=True)
class Moved:
    """What a changed model says, beside the model before.

    Attributes:
        divergence: of a model with logits the mean over tokens of `KL(before ‖ after)` in nats; of an encoder
            the mean over windows of `1 − cosine` between pooled embeddings.
        loss: mean loss in nats of the tokens that the data has; of an encoder, and of a model whose logits
            predict no token of the data, the divergence again.
    """

    divergence: float
    loss: float


class Reference:
    """What the model says now, kept to be compared with.

    Args:
        batches: held-out windows. As many are used as `REFERENCE_BYTES` of logits hold, one batch at least.
    """

    def __init__(self, model: Any, batches: Sequence[Batch]) -> None:
        self.batches: list[Batch] = []
        self.said: list[Tensor] = []
        size = 0
        for batch in batches:
            self.batches.append(batch)
            self.said.append(_says(model, batch))
            size += self.said[-1].numel() * self.said[-1].element_size()
            if size > REFERENCE_BYTES:
                break
        self.tokens = sum(int(_mask(batch).sum()) for batch in self.batches)
        self.before = self.of(model)

    def of(self, model: Any) -> Moved:
        """How far the model, changed since, is from it now; infinitely far where a value is not finite."""
        divergence, loss, rows, predicted = 0.0, 0.0, 0, 0
        for batch, before in zip(self.batches, self.said, strict=True):
            after = _says(model, batch)
            apart = _divergences(before, after) if _has_head(model) else 1 - (before * after).sum(-1)
            divergence += float(apart.sum(dtype=torch.float64))
            rows += len(before)
            if model.can_generate():
                labels = _labels(batch).to(after.device)
                chosen = after[labels >= 0].gather(1, labels[labels >= 0, None])
                loss -= float(chosen.sum(dtype=torch.float64))
                predicted += len(chosen)
        divergence = max(divergence / rows, 0.0)
        loss = loss / predicted if predicted else divergence
        if not (math.isfinite(divergence) and math.isfinite(loss)):
            return Moved(math.inf, math.inf)
        return Moved(divergence, loss)


@torch.no_grad()
def _says(model: Any, batch: Batch) -> Tensor:
    """Log probabilities `(tokens, vocabulary)`, or pooled embeddings of length 1 `(windows, width)`, float32."""
    moved = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
    training = model.training
    model.eval()
    try:
        output = model(**moved)
    finally:
        model.train(training)
    if _has_head(model):
        logits = output.logits.float()
        if logits.ndim == 3:
            logits = logits[_mask(moved).bool()]
        return nn.functional.log_softmax(logits, -1)
    if not hasattr(output, "last_hidden_state"):
        raise EckartError(f"{type(model).__name__} gives neither logits nor hidden states to compare")
    mask = _mask(moved)[..., None].float()
    return nn.functional.normalize((output.last_hidden_state.float() * mask).sum(1) / mask.sum(1), dim=-1)


def _has_head(model: Any) -> bool:
    """Whether it gives logits: a bare backbone is its own base model."""
    return model.base_model is not model


def _divergences(before: Tensor, after: Tensor) -> Tensor:
    return (before.exp() * (before - after)).sum(-1)


def _mask(batch: Batch) -> Tensor:
    return batch.get("decoder_attention_mask", batch["attention_mask"])


def _labels(batch: Batch) -> Tensor:
    """What follows each real token, `(tokens,)`; -100 where nothing does."""
    if "labels" in batch:
        labels = batch["labels"]
    else:
        labels = torch.full_like(batch["input_ids"], -100)
        labels[:, :-1] = batch["input_ids"][:, 1:].masked_fill(batch["attention_mask"][:, 1:] == 0, -100)
    return labels[_mask(batch).bool()]
