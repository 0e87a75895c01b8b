"""Which examples are in which step: worked out before the first one, from the seed alone.

So it is the same for any number of processes, and a run that is resumed has only to skip.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import islice
from math import ceil

from eckart.recovery.settings import Training

GROUPED = 32
"""Batches that are sorted by length together, so that windows of similar length meet: less padding."""


def plan(lengths: Sequence[int], training: Training) -> list[list[int]]:
    """The examples of each step, as indices.

    In an epoch each example comes once, and as many of them again as fill its last batch.

    Args:
        lengths: tokens of each example.
    """
    batches = _batches(lengths, training.batch, training.seed)
    if training.steps is not None:
        return list(islice(batches, training.steps))
    if training.epochs is not None:
        return list(islice(batches, ceil(training.epochs * ceil(len(lengths) / training.batch) - 1e-9)))
    assert training.tokens is not None
    chosen: list[list[int]] = []
    tokens = 0
    while tokens < training.tokens:
        chosen.append(next(batches))
        tokens += sum(lengths[index] for index in chosen[-1])
    return chosen


def _batches(lengths: Sequence[int], batch: int, seed: int) -> Iterator[list[int]]:
    """Epoch after epoch, without end."""
    epoch = 0
    while True:
        chance = random.Random(f"{seed} {epoch}")
        order = list(range(len(lengths)))
        chance.shuffle(order)
        whole = ceil(len(order) / batch) * batch
        order = [order[at % len(order)] for at in range(whole)]
        batches: list[list[int]] = []
        for at in range(0, whole, GROUPED * batch):
            group = sorted(order[at : at + GROUPED * batch], key=lambda index: -lengths[index])
            batches += [group[start : start + batch] for start in range(0, len(group), batch)]
        chance.shuffle(batches)
        yield from batches
        epoch += 1
