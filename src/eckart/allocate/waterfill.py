"""Spend parameters where they lower the sum of errors most."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import pairwise
from math import inf
from typing import NamedTuple

import numpy as np

from eckart.allocate.budget import Picks, checked_errors, cost
from eckart.allocate.uniform import uniform
from eckart.types import Curve

FLOOR = 0.3
"""Share of its uniform rank that no target goes below. Errors are only local: freed entirely, deep cuts
starve single weights (METHODS §4: perplexity 466 against 218 for uniform at keep 0.6)."""


def waterfill(curves: Sequence[Curve], budget: int, floor: float = FLOOR) -> Picks:
    """Minimise the sum of errors under the budget, dense being a choice like any rank.

    Each target's options lie on a curve of error against parameters, from its floor to dense. On the
    lower convex hulls the Lagrange condition is exact: take hull segments in the order of error saved
    per parameter. Of a target whose next segment no longer fits, what fits has a hull of its own.

    So a larger budget never gives a larger error, floors apart: where it first takes a segment that the
    smaller one cannot, that saves more than anything the smaller one has room for.

    Args:
        floor: share of the uniform rank that no target goes below.

    Raises:
        ValueError: `budget` is below what rank 1 everywhere costs, or a curve has no errors.
    """
    checked_errors(curves)
    ranks = _floors(curves, budget, floor)
    left = budget - cost(curves, ranks)
    segments = [_hull(curve, rank) for curve, rank in zip(curves, ranks, strict=True)]
    best = [(-each[-1].saving, index) for index, each in enumerate(segments) if each]
    heapify(best)
    while best:
        _, index = heappop(best)
        segment = segments[index][-1]
        if segment.price <= left:
            segments[index].pop()
            ranks[index] = segment.following
            left -= segment.price
        else:
            segments[index] = _hull(curves[index], ranks[index], left)
        if segments[index]:
            heappush(best, (-segments[index][-1].saving, index))
    return ranks


def _floors(curves: Sequence[Curve], budget: int, floor: float) -> Picks:
    floors: Picks = []
    for curve, rank in zip(curves, uniform(curves, budget), strict=True):
        if len(curve.costs) <= 1:
            floors.append(None)
            continue
        full = len(curve.costs) - 1 if rank is None else rank
        if curve.mixed:
            # Positions of several structures are no sizes: a share of what they cost is meant.
            cheaper = np.searchsorted(curve.costs, floor * float(curve.costs[full]), side="right") - 1
            floors.append(max(1, int(cheaper)))
        else:
            floors.append(max(1, int(floor * full)))
    return floors


class _Segment(NamedTuple):
    """From one corner of a hull to the next: error saved per parameter, the rank there, parameters."""

    saving: float
    following: int | None
    price: int


def _hull(curve: Curve, start: int | None, most: float = inf) -> list[_Segment]:
    """Segments of the lower hull from a rank on, the first one last, of what costs `most` more at most."""
    if start is None:
        return []
    assert curve.errors is not None
    prices = [*curve.costs[start:].tolist(), curve.dense]
    errors = [*curve.errors[start:].tolist(), 0.0]
    dense = len(prices) - 1
    corners, slopes = [0], [inf]
    for point in range(1, len(prices)):
        if prices[point] - prices[0] > most:
            break
        # A corner is none when the line past it, from the corner before, saves as much.
        while (slope := _slope(prices, errors, corners[-1], point)) >= slopes[-1]:
            corners.pop()
            slopes.pop()
        corners.append(point)
        slopes.append(slope)
    found = [
        _Segment(slope, start + after if after < dense else None, prices[after] - prices[before])
        for slope, (before, after) in zip(slopes[1:], pairwise(corners), strict=True)
    ]
    return found[::-1]


def _slope(prices: list[int], errors: list[float], before: int, after: int) -> float:
    return (errors[before] - errors[after]) / (prices[after] - prices[before])
