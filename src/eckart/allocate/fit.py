"""From a few measured losses to a loss at every rank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

STEEPEST = 4.0
"""Largest exponent: two nearly equal tails could otherwise ask for any."""


def fitted(tail: np.ndarray, ranks: Sequence[int], losses: Sequence[float]) -> np.ndarray:
    """A loss at every rank: `scale · tail^power`, fitted to what was measured at some.

    The spectral tail has the right shape and the wrong unit; a loss grows as some power of it, 1 where the
    error is small. Scale and power are the least-squares line through the logarithms, the power between
    0 and `STEEPEST`, so that the curve never rises with the rank. (LEMS, ICML 2026, fits what it measured
    likewise; it adds a bias for depth, which a loss measured at the model's end already has.)

    Args:
        tail: the error that each rank leaves, `(R + 1,)`, descending, in any unit.
        ranks: where something was measured, at least one.
        losses: what was measured there; noise below zero counts as none.

    Returns:
        `(R + 1,)`, in the unit of `losses`.

    Raises:
        ValueError: nothing was measured, or something is not finite.
    """
    if not len(ranks) or len(ranks) != len(losses) or not np.isfinite(losses).all():
        raise ValueError("a fit needs a finite loss for each rank that was measured, and one at least")
    known = np.array([(tail[rank], loss) for rank, loss in zip(ranks, losses, strict=True)])
    known = known[(known > 0).all(axis=1)]
    if not len(known):
        return np.zeros_like(tail)
    x, y = np.log(known).T
    power = 1.0
    if np.ptp(x) > 0:
        power = float(np.clip(np.polyfit(x, y, 1)[0], 0.0, STEEPEST))
    scale = float(np.exp(np.mean(y - power * x)))
    errors: np.ndarray = np.where(tail > 0, scale * np.maximum(tail, 0.0) ** power, 0.0)
    return errors
