"""Laws of one energy threshold for all targets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from curve_cases import assert_nothing_affordable_is_left, budgets, curve, problems, random_curves
from hypothesis import given

from eckart.allocate import at_energy, energy
from eckart.types import Curve

Problem = tuple[list[Curve], int]
SHARES = (0.9, 0.95, 0.99, 0.999)


@given(problem=problems())
def test_never_above_the_budget_and_nothing_affordable_is_left(problem: Problem) -> None:
    curves, budget = problem
    assert_nothing_affordable_is_left(curves, budget, energy(curves, budget))


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seed", range(10))
def test_rank_at_a_share_is_the_least_that_keeps_it(seed: int, share: float) -> None:
    for target, rank in zip(curves := random_curves(seed), at_energy(curves, share), strict=True):
        assert target.errors is not None
        kept = 1 - target.errors / target.errors[0]
        if rank is None:
            assert (kept < share).all()
        else:
            assert kept[rank] >= share
            assert rank == 1 or kept[rank - 1] < share


def test_unit_of_one_targets_energy_does_not_matter() -> None:
    curves = random_curves(3)
    assert curves[0].errors is not None
    scaled = [replace(curves[0], errors=1e6 * curves[0].errors), *curves[1:]]
    for budget in budgets(curves):
        assert energy(curves, budget) == energy(scaled, budget)
    assert at_energy(curves, 0.99) == at_energy(scaled, 0.99)


def test_flat_spectrum_gets_the_parameters_that_a_steep_one_does_not_need() -> None:
    flat, steep = curve("pivoted", 12, 12, [1.0] * 12), curve("pivoted", 12, 12, [4.0**-i for i in range(12)])
    ranks = energy([flat, steep], 160)
    assert ranks[1] is not None
    assert (ranks[0] or 12) > ranks[1]


def test_target_that_nobody_sees_gets_rank_one() -> None:
    unseen = curve("lowrank", 12, 12, [0.0] * 12)
    assert at_energy([unseen], 0.99) == [1]


def test_what_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the error at every rank"):
        energy([curve("lowrank", 8, 8, None)], 40)


def test_less_than_rank_one_everywhere_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than rank 1"):
        energy([curve("lowrank", 8, 8, np.ones(8).tolist())], 3)
