"""Spend parameters where they lower the sum of errors most."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import inf

from eckart.allocate.budget import Ranks, checked_errors, cost, spend
from eckart.allocate.uniform import uniform
from eckart.types import Curve

FLOOR = 0.3
"""Share of its uniform rank that no target goes below. Errors are only local: freed entirely, deep cuts
starve single weights (METHODS §4: perplexity 466 against 218 for uniform at keep 0.6)."""


def waterfill(curves: Sequence[Curve], budget: int, floor: float = FLOOR) -> Ranks:
    """Minimise the sum of errors under the budget, dense being a choice like any rank.

    Each target's options lie on a curve of error against parameters, from its floor to dense. On the
    lower convex hulls the Lagrange condition is exact: take hull segments in the order of error saved
    per parameter. The segment that no longer fits is walked rank by rank.

    Args:
        floor: share of the uniform rank that no target goes below.

    Raises:
        ValueError: `budget` is below what rank 1 everywhere costs, or a curve has no errors.
    """
    checked_errors(curves)
    ranks = _floors(curves, budget, floor)
    left = budget - cost(curves, ranks)
    segments = sorted(
        (segment for index in range(len(curves)) for segment in _hull(curves[index], ranks[index], index)),
        reverse=True,
    )
    blocked: set[int] = set()
    for _, index, following, price in segments:
        # Beyond a segment that did not fit, a target's later ones start from the wrong place.
        if index in blocked or price > left:
            blocked.add(index)
            continue
        ranks[index] = following
        left -= price

    def saving(curve: Curve, rank: int, following: int | None) -> float:
        assert curve.errors is not None
        after, price = (
            (0.0, curve.dense) if following is None else (curve.errors[following], curve.costs[following])
        )
        return float((curve.errors[rank] - after) / (price - curve.costs[rank]))

    return spend(curves, ranks, budget, saving)


def _floors(curves: Sequence[Curve], budget: int, floor: float) -> Ranks:
    floors: Ranks = []
    for curve, rank in zip(curves, uniform(curves, budget), strict=True):
        if len(curve.costs) <= 1:
            floors.append(None)
            continue
        full = len(curve.costs) - 1 if rank is None else rank
        floors.append(max(1, int(floor * full)))
    return floors


def _hull(curve: Curve, start: int | None, index: int) -> list[tuple[float, int, int | None, int]]:
    """Segments `(error saved per parameter, index, rank at its end, parameters)` of the lower hull."""
    if start is None:
        return []
    assert curve.errors is not None
    prices = [*curve.costs[start:].tolist(), curve.dense]
    errors = [*curve.errors[start:].tolist(), 0.0]
    corners, slopes = [0], [inf]
    for point in range(1, len(prices)):
        # A corner is none when the line past it, from the corner before, saves as much.
        while (slope := _slope(prices, errors, corners[-1], point)) >= slopes[-1]:
            corners.pop()
            slopes.pop()
        corners.append(point)
        slopes.append(slope)
    return [
        (slope, index, start + after if after < len(prices) - 1 else None, prices[after] - prices[before])
        for slope, (before, after) in zip(slopes[1:], pairwise(corners), strict=True)
    ]


def _slope(prices: list[int], errors: list[float], before: int, after: int) -> float:
    return (errors[before] - errors[after]) / (prices[after] - prices[before])
