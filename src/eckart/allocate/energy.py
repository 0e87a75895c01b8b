"""The same share of every target's energy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eckart.allocate.budget import Picks, checked_errors, cost, smallest, spend
from eckart.types import Curve


def energy(curves: Sequence[Curve], budget: int) -> Picks:
    """Every target keeps the same share of its energy: the largest that fits the budget.

    `Curve.errors[0]` is the whole energy. A target that reaches the share only where no rank saves anything
    stays dense. What whole ranks leave over goes to the target that has lost the largest share.

    Raises:
        ValueError: `budget` is below what rank 1 everywhere costs, or a curve has no errors.
    """
    checked_errors(curves)
    ranks = smallest(curves)
    if cost(curves, ranks) > budget:
        raise ValueError(f"{budget} parameters are fewer than rank 1 everywhere costs")
    # What matters is the share that is lost: bisected in its logarithm, from all to nothing worth a name.
    low, high = -40.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        candidate = at_energy(curves, 1 - np.exp(middle))
        if cost(curves, candidate) <= budget:
            high, ranks = middle, candidate
        else:
            low = middle

    def lost(curve: Curve, rank: int, following: int | None) -> float:
        assert curve.errors is not None
        return float(curve.errors[rank] / (curve.errors[0] or 1.0))

    return spend(curves, ranks, budget, lost)


def at_energy(curves: Sequence[Curve], share: float) -> Picks:
    """The least rank of each target that keeps `share` of its energy, 1 at least; dense where none does.

    Args:
        share: from 0 to 1; 0.9, 0.95, 0.99 and 0.999 are the customary ones.
    """
    found: Picks = []
    for curve in curves:
        assert curve.errors is not None
        enough = np.flatnonzero(curve.errors <= (1 - share) * curve.errors[0])
        found.append(max(1, int(enough[0])) if len(enough) and len(curve.costs) > 1 else None)
    return found
