"""Laws of water-filling."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from curve_cases import (
    assert_nothing_affordable_is_left,
    best_error,
    budgets,
    corners,
    curve,
    error,
    price,
    problems,
    random_curves,
    smallest,
    spent,
    total_error,
)
from hypothesis import given
from hypothesis import strategies as st

from eckart.allocate import least, uniform, waterfill
from eckart.allocate.waterfill import FLOOR
from eckart.types import Curve

Problem = tuple[list[Curve], int]
floors = st.sampled_from([0.0, FLOOR, 0.7, 1.0])


def close(value: float, curves: list[Curve]) -> float:
    """`value` and what rounding may add to it."""
    return value + 1e-9 * sum(error(target, min(1, len(target.costs) - 1)) for target in curves) + 1e-200


@given(problem=problems(), floor=floors)
def test_never_above_the_budget_and_nothing_affordable_is_left(problem: Problem, floor: float) -> None:
    curves, budget = problem
    assert_nothing_affordable_is_left(curves, budget, waterfill(curves, budget, floor))


@pytest.mark.parametrize("floor", [0.0, FLOOR, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(20))
def test_no_target_goes_below_its_share_of_the_uniform_rank(seed: int, floor: float) -> None:
    curves = random_curves(seed)
    for budget in budgets(curves):
        even = uniform(curves, budget)
        for target, rank, fair in zip(curves, waterfill(curves, budget, floor), even, strict=True):
            if rank is not None:
                full = len(target.costs) - 1 if fair is None else fair
                assert rank >= max(1, int(floor * full))


@pytest.mark.parametrize("seed", range(60))
def test_total_error_is_the_least_possible_up_to_one_hull_segment(seed: int) -> None:
    curves = random_curves(seed)
    gap = max(
        error(target, before) - error(target, after)
        for target in curves
        for before, after in pairwise(corners(target))
    )
    for budget in budgets(curves, 7):
        found, best = total_error(curves, waterfill(curves, budget, floor=0)), best_error(curves, budget)
        assert best <= close(found, curves)
        assert found <= close(best + gap, curves)


@pytest.mark.parametrize("seed", range(60))
def test_total_error_is_the_least_possible_where_the_budget_ends_at_a_corner(seed: int) -> None:
    curves = random_curves(seed)
    for multiplier in (4.0, 12.0, 36.0, 108.0):
        # What minimises `error + price / multiplier` is the optimum of its own price.
        ranks = [
            min(corners(target), key=lambda rank: error(target, rank) * multiplier + price(target, rank))
            for target in curves
        ]
        budget = spent(curves, ranks)
        found = total_error(curves, waterfill(curves, budget, floor=0))
        assert found <= close(best_error(curves, budget), curves)


def test_what_no_segment_fits_into_goes_where_it_saves_most_per_parameter() -> None:
    # Both want to jump to dense, for 80 and 25 parameters, and 20 are left. A rank saves 1 in either, for
    # 20 parameters in the one, for 9 and then 7 in the other.
    curves = [curve("lowrank", 10, 10, [1.0] * 10), curve("pivoted", 6, 6, [1.0] * 6)]
    assert waterfill(curves, 51, floor=0) == [1, 3]


def test_a_segment_that_does_not_fit_gives_way_to_what_fits_of_its_own_target() -> None:
    # The jump to dense of the second one is worth most and does not fit; its next rank comes before the
    # jump of the first one, which would.
    curves = [
        Curve(np.array([0, 10, 20]), 25, np.array([0.005, 0.004, 0.003])),
        Curve(np.array([0, 11, 22]), 30, np.array([0.5, 0.4, 0.3])),
    ]
    assert waterfill(curves, 36, floor=0) == [1, 2]


@given(problem=problems(), more=st.integers(1, 60))
def test_larger_budget_never_gives_a_larger_error(problem: Problem, more: int) -> None:
    # With the floors at rank 1: shares of the uniform rank rise with the budget, and take from the others.
    curves, budget = problem
    less = total_error(curves, waterfill(curves, budget, floor=0))
    assert total_error(curves, waterfill(curves, budget + more, floor=0)) <= close(less, curves)


@given(problem=problems(), scale=st.sampled_from([2.0**-30, 0.5, 2.0**40]))
def test_unit_of_the_errors_changes_nothing(problem: Problem, scale: float) -> None:
    curves, budget = problem
    scaled = [replace(target, errors=target.errors * scale) for target in curves]
    assert waterfill(scaled, budget) == waterfill(curves, budget)


def test_dense_is_chosen_where_ranks_save_little() -> None:
    # One weight needs every direction, the other one direction.
    curves = [curve("lowrank", 10, 10, [1.0] * 10), curve("lowrank", 10, 10, [100.0] + [0.0] * 9)]
    assert waterfill(curves, 130, floor=0) == [None, 1]
    assert uniform(curves, 130) == [3, 3]


def test_floor_keeps_a_weight_from_starving() -> None:
    curves = [curve("pivoted", 30, 30, [1.0] * 30), curve("pivoted", 30, 30, [1e-6] * 30)]
    (_, free), (_, held) = waterfill(curves, 900, floor=0), waterfill(curves, 900, floor=0.5)
    assert free == 1
    assert held == uniform(curves, 900)[1] // 2


@given(problem=problems())
def test_weight_where_no_rank_pays_stays_dense(problem: Problem) -> None:
    curves, budget = problem
    stuck = curve("lowrank", 1, 7, [5.0])
    ranks = waterfill([*curves, stuck], budget + stuck.dense)
    assert ranks[-1] is None
    assert ranks[:-1] == waterfill(curves, budget)


@given(problem=problems())
def test_budget_below_the_least_is_refused_and_the_least_is_not(problem: Problem) -> None:
    curves, _ = problem
    assert waterfill(curves, least(curves)) == smallest(curves)
    with pytest.raises(ValueError, match="fewer than rank 1 everywhere"):
        waterfill(curves, least(curves) - 1)


@given(problem=problems())
def test_budget_for_everything_keeps_everything(problem: Problem) -> None:
    curves, _ = problem
    assert waterfill(curves, sum(target.dense for target in curves)) == [None] * len(curves)


def test_curve_without_errors_is_refused() -> None:
    target = curve("lowrank", 6, 6, [1.0] * 6)
    for errors in (None, target.errors[:-1]):
        with pytest.raises(ValueError, match="the error at every rank"):
            waterfill([target, replace(target, errors=errors)], 40)


def test_errors_that_are_not_finite_are_refused() -> None:
    target = curve("lowrank", 6, 6, [1.0] * 6)
    with pytest.raises(ValueError, match="curve 1 has errors that are not finite"):
        waterfill([target, replace(target, errors=target.errors * np.nan)], 40)
