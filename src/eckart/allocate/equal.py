"""One size for all targets of one shape."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.allocate.budget import Picks, cost, smallest
from eckart.types import Curve

MULTIPLE = 8
"""Kernels want the widths of what they multiply to be multiples of 16 bytes."""


def equal(curves: Sequence[Curve], budget: int) -> Picks:
    """Every target keeps the same share of its sizes, down to a multiple of 8, whatever is left over.

    Raises:
        ValueError: `budget` is below what rank 1 everywhere costs.
    """
    picks = smallest(curves)
    if cost(curves, picks) > budget:
        raise ValueError(f"{budget} parameters are fewer than rank 1 everywhere costs")
    longest = max((len(curve.costs) for curve in curves), default=0)
    low, high = 0, longest
    # The share is `low / longest`: of the longest curve every size is tried.
    while high - low > 1:
        middle = (low + high) // 2
        tried = [_at(curve, middle / longest) for curve in curves]
        if cost(curves, tried) <= budget:
            picks, low = tried, middle
        else:
            high = middle
    return picks


def _at(curve: Curve, share: float) -> int | None:
    """The size of a share; dense where no size saves anything."""
    if len(curve.costs) <= 1:
        return None
    size = max(1, int(share * len(curve.costs) + 1e-9))
    return size // MULTIPLE * MULTIPLE or size
