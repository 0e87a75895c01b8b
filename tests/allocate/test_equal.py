"""Laws of the allocation that gives all targets of one shape one size."""

from __future__ import annotations

import pytest
from curve_cases import budgets, random_curves, smallest, spent

from eckart.allocate import equal
from eckart.allocate.equal import MULTIPLE
from eckart.types import Curve


def of_shares(curves: list[Curve], share: int, longest: int) -> list[int | None]:
    """What every target keeps at `share / longest`: below a multiple of 8 the sizes there are."""
    exact = [share * len(curve.costs) // longest for curve in curves]
    return [
        (None if len(curve.costs) <= 1 else max(size // MULTIPLE * MULTIPLE, min(size, MULTIPLE - 1), 1))
        for curve, size in zip(curves, exact, strict=True)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_largest_share_that_all_can_keep(seed: int) -> None:
    curves = random_curves(seed, (20, 60)) + random_curves(seed % 3)
    longest = max(len(curve.costs) for curve in curves)
    for budget in budgets(curves):
        best = smallest(curves)
        for share in range(1, longest):
            tried = of_shares(curves, share, longest)
            if spent(curves, tried) <= budget:
                best = tried
        assert equal(curves, budget) == best


@pytest.mark.parametrize("seed", range(10))
def test_less_than_rank_one_everywhere_is_refused(seed: int) -> None:
    curves = random_curves(seed)
    with pytest.raises(ValueError, match="rank 1 everywhere"):
        equal(curves, spent(curves, smallest(curves)) - 1)
