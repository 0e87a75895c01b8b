"""What a training is judged by: texts that it does not learn from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart.calibrate.observing import BACKWARD_TOKENS
from eckart.compression.dividing import HELD_OUT_TOKENS
from eckart.data.splitting import set_apart
from eckart.evaluation import Moved, Reference
from eckart.evaluation.divergence import LEAST_WINDOWS
from eckart.model import text as text_
from eckart.recovery import windows
from eckart.recovery.settings import Training
from eckart.recovery.windows import Example
from eckart.types import HeldOut, Learned, Text


@dataclass
class Parted:
    """Texts to learn from, and batches of those that are held out.

    Attributes:
        batches: none where there are too few texts; then all are learned from.
        notes: what a user should know.
    """

    learning: Sequence[Text]
    batches: list[text_.Batch] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: Any, tokenizer: Any, texts: Sequence[Text], training: Training) -> Parted:
        """Hold a share of the texts out, read as the training reads: of a completion its own tokens count."""
        learning, held = set_apart(texts)
        rows: list[Example] = []
        if learning and held:
            rows = windows.examples(model, tokenizer, held, training.max_length, training.end).rows
        if len(rows) < LEAST_WINDOWS:
            few = f"{len(texts)} texts are" if len(texts) > 1 else "one text is"
            return cls(
                texts,
                notes=[f"{few} too little to hold some out: what the training came to was not measured"],
            )
        return cls(learning, _batches(model, tokenizer, rows))


class Judge:
    """How far a model is from what it should say, before and after a training.

    Args:
        model: before the training, or before the cut.
        teacher: that is imitated, if one is.
    """

    def __init__(self, batches: Sequence[text_.Batch], model: Any, teacher: Any = None) -> None:
        self.reference = Reference(batches, model if teacher is None else teacher)
        self.before = self.reference.before if teacher is None else self.reference.of(model)
        self.teaches = teacher is not None

    def of(self, model: Any) -> Moved:
        """Where the model is now."""
        return self.reference.of(model)

    def learned(self, model: Any) -> tuple[Learned, HeldOut | None]:
        """What the training came to, and beside a teacher how far the model is from it."""
        after, tokens = self.of(model), self.reference.tokens
        gained = Learned(tokens=tokens, before=self.before.loss, after=after.loss)
        if not self.teaches:
            return gained, None
        teacher = self.reference.before
        return gained, HeldOut(
            tokens=tokens, before=teacher.loss, after=after.loss, divergence=after.divergence
        )


def _batches(model: Any, tokenizer: Any, rows: Sequence[Example]) -> list[text_.Batch]:
    """As many as are measured on, spread over all, with labels at the place of the logits that say them."""
    tokens = sum(map(len, rows))
    count = min(len(rows), max(LEAST_WINDOWS, round(HELD_OUT_TOKENS * len(rows) / tokens)))
    taken = sorted((rows[index * len(rows) // count] for index in range(count)), key=len, reverse=True)
    groups: list[list[Example]] = []
    for row in taken:
        if not groups or (len(groups[-1]) + 1) * len(groups[-1][0]) > BACKWARD_TOKENS:
            groups.append([])
        groups[-1].append(row)
    collate = windows.Collator(model, text_.padding_id(tokenizer))
    made = [collate(group) for group in groups]
    for batch in made:
        if "labels" in batch:
            batch["labels"] = text_.aimed(model, batch["labels"])
    return made
