"""Counting what ranks cost, and spending what is left."""

from __future__ import annotations

import numpy as np
import pytest
from curve_cases import (
    Ranks,
    assert_nothing_affordable_is_left,
    curve,
    curve_lists,
    price,
    problems,
    random_curves,
    smallest,
    spent,
)
from hypothesis import given
from hypothesis import strategies as st

from eckart.allocate import cost, least
from eckart.allocate.budget import largest_within, spend
from eckart.types import Curve


def by_walking(curves: list[Curve], ranks: Ranks, budget: int, worth) -> list[int | None]:
    """What `spend` promises, said slowly: look at every step each time."""
    ranks = list(ranks)
    while True:
        left = budget - spent(curves, ranks)
        steps = []
        for index, (target, rank) in enumerate(zip(curves, ranks, strict=True)):
            if rank is None:
                continue
            following = rank + 1 if rank + 1 < len(target.costs) else None
            if price(target, following) - price(target, rank) <= left:
                steps.append((-worth(target, rank, following), index, following))
        if not steps:
            return ranks
        _, index, following = min(steps)
        ranks[index] = following


@given(problem=problems(), seed=st.integers(0, 100))
def test_spend_takes_the_most_wanted_step_that_fits_each_time(
    problem: tuple[list[Curve], int], seed: int
) -> None:
    curves, budget = problem
    wishes: dict[tuple[int, int], float] = {}
    draw = np.random.default_rng(seed)

    def worth(curve: Curve, rank: int, following: int | None) -> float:
        return wishes.setdefault((id(curve), rank), float(draw.normal()))

    ranks = spend(curves, smallest(curves), budget, worth)
    assert ranks == by_walking(curves, smallest(curves), budget, worth)
    assert_nothing_affordable_is_left(curves, budget, ranks)


@given(curves=curve_lists())
def test_least_is_rank_1_everywhere_and_dense_where_no_rank_pays(curves: list[Curve]) -> None:
    assert least(curves) == cost(curves, smallest(curves)) == spent(curves, smallest(curves))


def test_cost_adds_up_ranks_and_dense_weights() -> None:
    curves = [curve("lowrank", 4, 6, None), curve("pivoted", 4, 6, None)]
    assert cost(curves, [2, 3]) == 2 * 10 + 3 * 7
    assert cost(curves, [None, 1]) == 24 + 9
    with pytest.raises(ValueError, match="shorter"):
        cost(curves, [2])


@pytest.mark.parametrize("seed", range(10))
def test_largest_within_is_the_largest_by_trial(seed: int) -> None:
    for target in [*random_curves(seed), curve("lowrank", 1, 7, None)]:
        for allowance in np.arange(0, target.dense + 2, 0.5).tolist():
            fitting = [rank for rank in range(1, len(target.costs)) if target.costs[rank] <= allowance]
            expected = max([1, *fitting])
            if len(target.costs) <= 1 or target.dense <= allowance:
                expected = None
            assert largest_within(target, allowance) == expected
