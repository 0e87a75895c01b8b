"""What a step makes smaller, when nobody says otherwise: cross entropy of the labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional

from eckart.linalg import wide_products
from eckart.model import text

Objective = Callable[[Any, Any, text.Batch], tuple[Tensor, int]]
"""`objective(model, teacher, batch)`: the summed loss, and over how many tokens (or texts) it is a sum."""


def cross_entropy(model: Any, teacher: Any, batch: text.Batch) -> tuple[Tensor, int]:
    """The summed negative log-likelihood of the labels, in nats, and their count. No teacher is asked."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with wide_products():
        logits, labels = model(**inputs).logits, text.aimed(model, batch["labels"])
    counts = labels != text.IGNORED
    # Only the rows that count are upcast.
    loss = functional.cross_entropy(logits[counts].float(), labels[counts], reduction="sum")
    return loss, int(counts.sum())
