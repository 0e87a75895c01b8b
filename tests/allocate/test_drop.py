"""Which bases stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eckart.allocate import keep_best, keep_share
from eckart.types import Curve


def curve(out_features: int, in_features: int) -> Curve:
    dense = out_features * in_features
    ranks = range((dense - 1) // (out_features + in_features) + 1)
    return Curve(np.array([rank * (out_features + in_features) for rank in ranks]), dense)


def total(curves: list[Curve], kept: list[np.ndarray]) -> int:
    return sum(
        int(each.costs[stay.sum()]) if stay.sum() < len(each.costs) else each.dense
        for each, stay in zip(curves, kept, strict=True)
    )


SHAPES = st.lists(st.tuples(st.integers(2, 12), st.integers(2, 12)), min_size=1, max_size=4)


@pytest.mark.parametrize("choose", [keep_best, keep_share])
@given(shapes=SHAPES, share=st.floats(0, 1), seed=st.integers(0, 99))
def test_what_stays_fits_the_budget_and_nothing_is_gone_altogether(choose, shapes, share, seed):
    curves = [curve(*shape) for shape in shapes]
    chance = np.random.default_rng(seed)
    importances = [chance.random(min(shape)) for shape in shapes]
    least = sum(int(each.costs[1]) if len(each.costs) > 1 else each.dense for each in curves)
    budget = int(least + share * (sum(each.dense for each in curves) - least))
    kept = choose(curves, importances, budget)
    assert total(curves, kept) <= budget
    assert all(stay.any() for stay in kept)
    for values, stay in zip(importances, kept, strict=True):
        if stay.any() and not stay.all():
            assert values[stay].min() >= values[~stay].max()


def test_with_room_for_all_of_them_all_stay():
    curves, importances = [curve(4, 6), curve(3, 3)], [np.arange(4.0), np.arange(3.0)]
    budget = sum(each.dense for each in curves)
    for choose in (keep_best, keep_share):
        assert all(stay.all() for stay in choose(curves, importances, budget))


def test_together_they_are_ranked_by_what_each_parameter_is_worth():
    small, large = curve(4, 4), curve(40, 40)
    importances = [np.array([1.0, 1.0, 1.0, 1.0]), np.full(40, 2.0)]
    kept = keep_best([small, large], importances, 16 + 40 * 40 - 300)
    assert kept[0].all()
    assert not kept[1].all()


def test_each_by_itself_keeps_its_share_whatever_another_is_worth():
    curves = [curve(20, 20), curve(20, 20)]
    kept = keep_share(curves, [np.arange(20.0), 1000 + np.arange(20.0)], 400)
    assert [int(stay.sum()) for stay in kept] == [5, 5]
    assert kept[0][-5:].all()
