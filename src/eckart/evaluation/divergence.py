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

NEIGHBOURS = 5
LEAST_WINDOWS = 3


@dataclass(frozen=True)
class Moved:
    """What a changed model says, beside the model before.

    Attributes:
        divergence: of a model with logits the mean over tokens of `KL(before ‖ after)` in nats. Of an encoder
            `1 − r`, `r` the Pearson correlation of the cosines between each window's embedding and those of
            its `NEIGHBOURS` nearest with what they were. To compare is what it is used for; a shift that all
            share changes nothing, and pairs far apart say little about telling near ones apart.
        loss: mean loss in nats of the tokens that the data has; of a model that predicts none of them, the
            divergence again.
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
            said, self.headed = _says(model, batch)
            self.batches.append(batch)
            self.said.append(said)
            size += said.numel() * said.element_size()
            if size > REFERENCE_BYTES:
                break
        self.tokens = sum(int(_mask(batch).sum()) for batch in self.batches)
        self.before = self.of(model)

    def of(self, model: Any) -> Moved:
        """How far the model, changed since, is from it now; infinitely far where a value is not finite."""
        moved = self._by_logits(model) if self.headed else self._by_embeddings(model)
        return moved if math.isfinite(moved.divergence + moved.loss) else Moved(math.inf, math.inf)

    def _by_logits(self, model: Any) -> Moved:
        divergence, loss, rows, predicted = 0.0, 0.0, 0, 0
        for batch, before in zip(self.batches, self.said, strict=True):
            after, _ = _says(model, batch)
            divergence += float((before.exp() * (before - after)).sum(dtype=torch.float64))
            rows += len(before)
            if model.can_generate():
                labels = _labels(batch).to(after.device)
                chosen = after[labels >= 0].gather(1, labels[labels >= 0, None])
                loss -= float(chosen.sum(dtype=torch.float64))
                predicted += len(chosen)
        divergence = max(divergence / rows, 0.0) if math.isfinite(divergence) else math.inf
        return Moved(divergence, loss / predicted if predicted else divergence)

    def _by_embeddings(self, model: Any) -> Moved:
        before = torch.cat(self.said).double()
        after = torch.cat([_says(model, batch)[0] for batch in self.batches]).double()
        if len(before) < LEAST_WINDOWS:
            raise EckartError(
                f"an encoder compares texts: {LEAST_WINDOWS} held-out windows are the least; give more data"
            )
        cosines = (before @ before.T).fill_diagonal_(-torch.inf)
        near, which = cosines.topk(min(NEIGHBOURS, len(before) - 1), dim=1)
        now = (after @ after.T).gather(1, which)
        divergence = 1 - float(torch.corrcoef(torch.stack([near.flatten(), now.flatten()]))[0, 1])
        return Moved(max(divergence, 0.0) if math.isfinite(divergence) else math.inf, divergence)


@torch.no_grad()
def _says(model: Any, batch: Batch) -> tuple[Tensor, bool]:
    """Log probabilities `(tokens, vocabulary)` and true; or embeddings of length 1, and false."""
    moved = {key: value.to(model.device) for key, value in batch.items() if key != "labels"}
    training = model.training
    model.eval()
    try:
        output = model(**moved)
    finally:
        model.train(training)
    logits = getattr(output, "logits", None)
    if logits is not None:
        rows = logits if logits.ndim == 2 else logits[_mask(moved).bool()]
        return nn.functional.log_softmax(rows.float(), -1), True
    if not hasattr(output, "last_hidden_state"):
        raise EckartError(f"{type(model).__name__} gives neither logits nor hidden states to compare")
    mask = _mask(moved)[..., None].float()
    return nn.functional.normalize((output.last_hidden_state.float() * mask).sum(1), dim=-1), False


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
