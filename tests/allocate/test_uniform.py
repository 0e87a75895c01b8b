"""Laws of the uniform allocation."""

from __future__ import annotations

import pytest
from curve_cases import (
    assert_nothing_affordable_is_left,
    budgets,
    curve,
    price,
    problems,
    random_curves,
    smallest,
    spent,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from eckart.allocate import least, uniform
from eckart.types import Curve


def at_share(curve: Curve, share: float) -> int | None:
    """The largest rank that costs at most this share of the dense weight."""
    if len(curve.costs) <= 1 or share >= 1:
        return None
    return max(
        [1, *(rank for rank in range(1, len(curve.costs)) if curve.costs[rank] <= share * curve.dense)]
    )


def common_share(curves: list[Curve], budget: int) -> float:
    """The largest share that all targets can have at once, among those where a rank begins to fit."""
    shares = {0.0, 1.0} | {float(c) / curve.dense for curve in curves for c in curve.costs}
    return max(
        share for share in shares if spent(curves, [at_share(curve, share) for curve in curves]) <= budget
    )


@given(problem=problems())
def test_never_above_the_budget_and_nothing_affordable_is_left(problem: tuple[list[Curve], int]) -> None:
    curves, budget = problem
    assert_nothing_affordable_is_left(curves, budget, uniform(curves, budget))


@pytest.mark.parametrize("seed", range(40))
def test_shares_are_equal_up_to_whole_ranks(seed: int) -> None:
    curves = random_curves(seed) + random_curves(seed % 3)
    for budget in budgets(curves):
        assert_shares_are_equal(curves, budget)


def assert_shares_are_equal(curves: list[Curve], budget: int) -> None:
    ranks = uniform(curves, budget)
    # A hair below, so that a share which is just met counts as met whatever the rounding.
    share = common_share(curves, budget) * (1 - 1e-12)
    left = budget - spent(curves, ranks)
    steps = []
    for target, rank in zip(curves, ranks, strict=True):
        fair, had = at_share(target, share), len(target.costs) if rank is None else rank
        if fair is None:
            assert rank is None
            continue
        assert had >= fair
        steps.append((target, had - fair, had, fair))
    for target, extra, had, _ in steps:
        if extra < 2:
            continue
        # Two ranks above the share only where a first one above it is too dear for everybody else.
        last = price(target, had if had < len(target.costs) else None) - price(target, had - 1)
        for other, none, _, fair in steps:
            if none == 0 and other.costs[1] <= share * other.dense:
                following = fair + 1 if fair + 1 < len(other.costs) else None
                assert price(other, following) - price(other, fair) > last + left


@given(size=st.integers(3, 12), copies=st.integers(1, 6), share=st.floats(0, 1))
def test_equal_weights_with_equal_steps_get_ranks_that_differ_by_one_at_most(
    size: int, copies: int, share: float
) -> None:
    curves = [curve("lowrank", size, size + 1, None)] * copies
    low, high = least(curves), spent(curves, [len(curves[0].costs) - 1] * copies)
    ranks = uniform(curves, low + int(share * (high - low)))
    assume(None not in ranks)
    assert max(ranks) - min(ranks) <= 1


def test_share_is_that_of_the_budget_where_ranks_are_fine_enough() -> None:
    curves = [curve("lowrank", 100, 100, None), curve("pivoted", 200, 50, None)]
    ranks = uniform(curves, 12_000)
    shares = [price(target, rank) / target.dense for target, rank in zip(curves, ranks, strict=True)]
    assert shares == pytest.approx([0.6, 0.6], abs=0.02)


@given(problem=problems())
def test_weight_where_no_rank_pays_stays_dense(problem: tuple[list[Curve], int]) -> None:
    curves, budget = problem
    stuck = curve("lowrank", 1, 7, [1.0])
    ranks = uniform([stuck, *curves], budget + stuck.dense)
    assert ranks[0] is None
    assert ranks[1:] == uniform(curves, budget)


@given(problem=problems())
def test_budget_below_the_least_is_refused_and_the_least_is_not(problem: tuple[list[Curve], int]) -> None:
    curves, _ = problem
    assert uniform(curves, least(curves)) == smallest(curves)
    with pytest.raises(ValueError, match="fewer than rank 1 everywhere"):
        uniform(curves, least(curves) - 1)


@given(problem=problems())
def test_budget_for_everything_keeps_everything(problem: tuple[list[Curve], int]) -> None:
    curves, _ = problem
    assert uniform(curves, sum(target.dense for target in curves)) == [None] * len(curves)
