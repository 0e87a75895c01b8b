"""Which bases of which targets go, so that what is left fits a budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eckart.allocate.budget import least
from eckart.allocate.uniform import uniform
from eckart.types import Curve


def keep_best(curves: Sequence[Curve], importances: Sequence[np.ndarray], budget: int) -> list[np.ndarray]:
    """Drop the least important bases of all targets together until the rest fits.

    Bases are ranked by importance for each parameter that one costs. A target whose bases cost as much as
    the dense weight costs that, so the first that go there save nothing yet.

    Args:
        importances: of the bases still there, in units that compare between targets.

    Returns:
        For each target which of its bases stay, true or false; one at least.
    """
    kept = [np.ones(len(each), dtype=bool) for each in importances]
    ranks = [len(each) for each in importances]
    left = sum(_cost(curve, rank) for curve, rank in zip(curves, ranks, strict=True))
    prices = [_price(curve) for curve in curves]
    order = sorted(
        (float(value) / prices[index], index, basis)
        for index, each in enumerate(importances)
        for basis, value in enumerate(each)
    )
    for _, index, basis in order:
        if left <= budget:
            break
        if ranks[index] <= 1:
            continue
        left += _cost(curves[index], ranks[index] - 1) - _cost(curves[index], ranks[index])
        ranks[index] -= 1
        kept[index][basis] = False
    return kept


def keep_share(curves: Sequence[Curve], importances: Sequence[np.ndarray], budget: int) -> list[np.ndarray]:
    """Drop the least important bases of each target by itself, so that all keep the same share.

    Arguments and result are as for `keep_best`; importances of different targets are not compared.
    """
    ranks = uniform(curves, max(budget, least(curves)))
    kept = []
    for each, rank in zip(importances, ranks, strict=True):
        stay = np.zeros(len(each), dtype=bool)
        stay[np.argsort(-each, kind="stable")[:rank]] = True
        kept.append(stay)
    return kept


def _cost(curve: Curve, rank: int) -> int:
    return int(curve.costs[rank]) if rank < len(curve.costs) else curve.dense


def _price(curve: Curve) -> int:
    """Parameters of one basis, where it is the only one."""
    return int(curve.costs[1]) if len(curve.costs) > 1 else curve.dense
