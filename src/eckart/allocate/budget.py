"""What ranks cost, the least that can be asked for, and spending what whole ranks left over."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

import numpy as np

from eckart.types import Curve

Picks = list[int | None]


def cost(curves: Sequence[Curve], ranks: Picks) -> int:
    """Parameters of all targets at these ranks."""
    return sum(
        curve.dense if rank is None else int(curve.costs[rank])
        for curve, rank in zip(curves, ranks, strict=True)
    )


def checked_errors(curves: Sequence[Curve]) -> None:
    """Every curve has a finite error for each of its ranks.

    Raises:
        ValueError: one has not.
    """
    for index, curve in enumerate(curves):
        if curve.errors is None or len(curve.errors) != len(curve.costs):
            raise ValueError("this allocation needs the error at every rank")
        if not np.isfinite(curve.errors).all():
            raise ValueError(f"curve {index} has errors that are not finite")


def least(curves: Sequence[Curve]) -> int:
    """Parameters with every target at rank 1, or dense where no rank saves anything."""
    return cost(curves, smallest(curves))


def smallest(curves: Sequence[Curve]) -> Picks:
    """Rank 1 everywhere, dense where no rank saves anything."""
    return [1 if len(curve.costs) > 1 else None for curve in curves]


def largest_within(curve: Curve, allowance: float) -> int | None:
    """The largest rank of at most `allowance` parameters (1 at least), dense if that fits."""
    if len(curve.costs) <= 1 or curve.dense <= allowance:
        return None
    return max(1, int(np.searchsorted(curve.costs, allowance, side="right")) - 1)


def spend(
    curves: Sequence[Curve], ranks: Picks, budget: int, worth: Callable[[Curve, int, int | None], float]
) -> Picks:
    """Give what is left of `budget` away one step at a time, the step of greatest `worth` first.

    A step is the next rank of a target, or from its last rank the dense weight.

    Args:
        worth: `(curve, its rank, its rank after the step) -> how much the step is wanted`.
    """
    ranks = list(ranks)
    left = budget - cost(curves, ranks)
    steps: list[tuple[float, int, int | None, int]] = []

    def offer(index: int) -> None:
        curve, rank = curves[index], ranks[index]
        if rank is None:
            return
        following = rank + 1 if rank + 1 < len(curve.costs) else None
        price = cost([curve], [following]) - int(curve.costs[rank])
        heappush(steps, (-worth(curve, rank, following), index, following, price))

    for index in range(len(curves)):
        offer(index)
    while steps:
        _, index, following, price = heappop(steps)
        # What is left only shrinks, so a step that is too dear now stays so.
        if price <= left:
            ranks[index] = following
            left -= price
            offer(index)
    return ranks
