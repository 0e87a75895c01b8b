"""The same share of every target."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.allocate.budget import Picks, cost, largest_within, smallest, spend
from eckart.types import Curve


def uniform(curves: Sequence[Curve], budget: int) -> Picks:
    """Every target keeps the same share of its parameters, up to whole ranks.

    The share is the largest that fits `budget`; what rounding leaves goes, rank by rank, to the target
    that is furthest below its share.

    Raises:
        ValueError: `budget` is below what rank 1 everywhere costs.
    """
    ranks = smallest(curves)
    if cost(curves, ranks) > budget:
        raise ValueError(f"{budget} parameters are fewer than rank 1 everywhere costs")
    low, high = 0.0, 1.0
    for _ in range(50):
        share = (low + high) / 2
        candidate = [largest_within(curve, share * curve.dense) for curve in curves]
        if cost(curves, candidate) <= budget:
            low, ranks = share, candidate
        else:
            high = share

    def shortfall(curve: Curve, rank: int, following: int | None) -> float:
        return low - float(curve.costs[rank]) / curve.dense

    return spend(curves, ranks, budget, shortfall)
