"""How far a model has moved from what it said before, on the same windows."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eckart.checkpoint import Spill
from eckart.linalg import wide_products
from eckart.model.sentences import Head, head_of
from eckart.model.text import SAID, Batch, next_tokens, saying, told
from eckart.types import EckartError

REFERENCE_BYTES = 2**28
"""At most, for what the dense model said: 256 MiB."""
HELD_BYTES = 2**26
"""Of them in memory; the rest is read from disk for each comparison."""

ROWS = 64
"""Of logits at once."""
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


@dataclass(frozen=True)
class Part:
    """What a changed model's output for one batch says of how far it has moved.

    Of a model with logits sums: `divergence` over `rows`, `loss` over `predicted` tokens. Of an encoder its
    `embeddings`, `(windows, width)`, as only all of them together tell.
    """

    divergence: float = 0.0
    rows: int = 0
    loss: float = 0.0
    predicted: int = 0
    embeddings: Tensor | None = None


def _logarithms(logits: Tensor) -> Tensor:
    """Of probabilities."""
    return nn.functional.log_softmax(logits.float(), -1)


class Reference:
    """What the model says now, kept to be compared with.

    Args:
        batches: held-out windows. As many are used as `REFERENCE_BYTES` of logits hold, one batch at least.
        model: runs them. Without it somebody else does, hands each output to `keep` until it is `full`, and
            then calls `begin`.
    """

    def __init__(self, batches: Sequence[Batch], model: Any = None) -> None:
        self.batches: list[Batch] = list(batches)
        self._said: list[Tensor] = []
        self._waiting = Spill(Path(tempfile.gettempdir()), HELD_BYTES)
        self.size = 0
        if model is not None:
            for batch in self.batches:
                self.keep(model, _output(model, batch))
                if self.full:
                    break
            self.begin()

    @property
    def full(self) -> bool:
        """Whether there is room for no more."""
        return self.size > REFERENCE_BYTES

    def keep(self, model: Any, output: Any) -> None:
        """What the model says to the next batch."""
        self.writes = bool(model.can_generate())
        if not self._said:
            self.behind = head_of(model)
        said, self.headed = _says(output, self.batches[len(self._said)], self.behind)
        self._said.append(said)
        self._waiting.away(said)
        self.size += said.nbytes

    def begin(self) -> None:
        """From now on what was kept is the reference."""
        self.batches = self.batches[: len(self._said)]
        self.tokens = sum(map(rows_of, self.batches))
        parts = []
        for index in range(len(self._said)):
            with self._before(index) as said:
                parts.append(self._part(said, said, index, logarithms=lambda rows: rows))
        self.before = self.moved(parts)

    def of(self, model: Any) -> Moved:
        """How far the model, changed since, is from it now; infinitely far where a value is not finite."""
        return self.moved([self.part(at, _output(model, batch)) for at, batch in enumerate(self.batches)])

    def part(self, index: int, output: Any) -> Part:
        """What a changed model's output for one batch says."""
        with self._before(index) as before:
            return self._part(before, _answer(output, self.batches[index], self.behind)[0], index)

    def moved(self, parts: Sequence[Part]) -> Moved:
        """How far a changed model is from it, by its output for every batch.

        Infinitely far where a value is not finite.

        Raises:
            EckartError: there are too few texts to compare.
        """
        moved = self._by_logits(parts) if self.headed else self._by_embeddings(parts)
        return moved if math.isfinite(moved.divergence + moved.loss) else Moved(math.inf, math.inf)

    @contextmanager
    def _before(self, index: int) -> Iterator[Tensor]:
        """What the model said to a batch when it was the reference."""
        said = self._said[index]
        self._waiting.back(said)
        try:
            yield said
        finally:
            self._waiting.away(said)

    def _part(
        self,
        before: Tensor,
        after: Tensor,
        index: int,
        logarithms: Callable[[Tensor], Tensor] = _logarithms,
    ) -> Part:
        """What logits, or embeddings, say beside the logarithms, or embeddings, before."""
        if not self.headed:
            return Part(embeddings=after)
        labels = _labels(self.batches[index]).to(after.device) if self.writes else None
        divergence = loss = 0.0
        for at in range(0, len(before), ROWS):
            one, other = before[at : at + ROWS], logarithms(after[at : at + ROWS])
            divergence += float((one.exp() * (one - other)).sum(dtype=torch.float64))
            if labels is not None:
                some = labels[at : at + ROWS]
                chosen = other[some >= 0].gather(1, some[some >= 0, None])
                loss -= float(chosen.sum(dtype=torch.float64))
        predicted = 0 if labels is None else int((labels >= 0).sum())
        return Part(divergence, len(before), loss, predicted)

    def _by_logits(self, parts: Sequence[Part]) -> Moved:
        divergence = sum(part.divergence for part in parts)
        divergence = (
            max(divergence / sum(part.rows for part in parts), 0.0) if math.isfinite(divergence) else math.inf
        )
        predicted = sum(part.predicted for part in parts)
        return Moved(divergence, sum(part.loss for part in parts) / predicted if predicted else divergence)

    def _by_embeddings(self, parts: Sequence[Part]) -> Moved:
        for said in self._said:
            self._waiting.back(said)
        before = torch.cat(self._said).double()
        after = torch.cat([part.embeddings for part in parts if part.embeddings is not None]).double()
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
def _output(model: Any, batch: Batch) -> Any:
    training = model.training
    model.eval()
    try:
        with wide_products():
            return model(**{name: value.to(model.device) for name, value in told(batch).items()})
    finally:
        model.train(training)


@torch.no_grad()
def _says(output: Any, batch: Batch, head: Head | None) -> tuple[Tensor, bool]:
    """Log probabilities `(tokens, vocabulary)` and true; or embeddings of length 1, and false."""
    answer, headed = _answer(output, batch, head)
    return (_logarithms(answer) if headed else answer), headed


@torch.no_grad()
def _answer(output: Any, batch: Batch, head: Head | None) -> tuple[Tensor, bool]:
    """Logits `(tokens, vocabulary)` and true; or embeddings of length 1, and false."""
    logits = getattr(output, "logits", None)
    if logits is not None:
        return logits if logits.ndim == 2 else logits[_mask(batch).bool().to(logits.device)], True
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise EckartError(f"{type(output).__name__} has neither logits nor hidden states to compare")
    if head is not None:
        return nn.functional.normalize(head(hidden, _mask(batch).to(hidden.device)).float(), dim=-1), False
    mask = _mask(batch)[..., None].float().to(hidden.device)
    return nn.functional.normalize((hidden.float() * mask).sum(1), dim=-1), False


def rows_of(batch: Batch) -> int:
    """Tokens of a batch that count: as many rows of logits are kept of it."""
    return int(_mask(batch).sum())


def _mask(batch: Batch) -> Tensor:
    """What counts of a batch: of chats where the model says what the assistant says."""
    mask = batch.get("decoder_attention_mask", batch["attention_mask"])
    return mask * saying(batch[SAID]) if SAID in batch else mask


def _labels(batch: Batch) -> Tensor:
    """What follows each real token, `(tokens,)`; `IGNORED` where nothing does."""
    if "labels" in batch:
        labels = batch["labels"]
    else:
        labels = next_tokens(batch["input_ids"], batch["attention_mask"].bool())
    return labels[_mask(batch).bool()]
