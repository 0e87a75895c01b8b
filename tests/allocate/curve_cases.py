"""Random curves and budgets, and brute-force answers to hold the allocators against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from fitting import SPECTRAL
from hypothesis import strategies as st

from eckart import structures
from eckart.structures import Site
from eckart.types import Curve, Target

Ranks = Sequence[int | None]


def curve(structure: str, out_features: int, in_features: int, squares: Sequence[float] | None) -> Curve:
    """The curve of a weight with these squared singular values, or of one that nobody measured."""
    dense = out_features * in_features
    site = Site((Target("weight", out_features, in_features, False),))
    counted = structures.find(structure).parameters
    every = [0, *(counted(site, rank) for rank in range(1, min(out_features, in_features) + 1))]
    costs = np.array([price for price in every if price < dense])
    if squares is None:
        return Curve(costs, dense)
    squares = np.sort(np.asarray(squares, dtype=float))
    tail = np.append(np.cumsum(squares)[::-1], 0.0)
    return Curve(costs, dense, tail[: len(costs)])


@st.composite
def squares(draw: st.DrawFn, count: int) -> list[float]:
    """From flat to one direction alone, in any unit, and ragged."""
    unit, decay = draw(st.sampled_from([1e-3, 0.1, 1.0, 10.0])), draw(st.sampled_from([1.0, 0.9, 0.6, 0.0]))
    ragged = draw(st.lists(st.floats(0.5, 1.5), min_size=count, max_size=count))
    return [unit * decay**place * factor for place, factor in enumerate(ragged)]


def random_curves(seed: int, sides: tuple[int, int] = (6, 13)) -> list[Curve]:
    """Three weights whose best allocation is seldom at an end."""
    draw = np.random.default_rng(seed)
    curves = []
    for m, n in draw.integers(*sides, (3, 2)).tolist():
        count = min(m, n)
        decay = 10 ** draw.uniform(-0.5, 0.5) * draw.choice([1.0, 0.9, 0.6]) ** np.arange(count)
        curves.append(curve(draw.choice(SPECTRAL), m, n, decay * draw.uniform(0.7, 1.3, count)))
    return curves


@st.composite
def curve_lists(draw: st.DrawFn, most: int = 5) -> list[Curve]:
    curves = []
    for _ in range(draw(st.integers(1, most))):
        structure = draw(st.sampled_from(SPECTRAL))
        m, n = draw(st.integers(1, 12)), draw(st.integers(1, 12))
        curves.append(curve(structure, m, n, draw(squares(min(m, n)))))
    copies = draw(st.integers(1, 2))
    return curves * copies


@st.composite
def problems(draw: st.DrawFn, most: int = 5) -> tuple[list[Curve], int]:
    """Curves and a budget between the least and a little more than everything."""
    curves = draw(curve_lists(most))
    low, high = spent(curves, smallest(curves)), sum(curve.dense for curve in curves)
    return curves, draw(st.integers(low, high + 3))


def budgets(curves: Sequence[Curve], count: int = 9) -> list[int]:
    """From the least that is possible to everything."""
    low, high = spent(curves, smallest(curves)), sum(curve.dense for curve in curves)
    return np.linspace(low, high, count).astype(int).tolist()


def smallest(curves: Sequence[Curve]) -> list[int | None]:
    return [1 if len(curve.costs) > 1 else None for curve in curves]


def price(curve: Curve, rank: int | None) -> int:
    return curve.dense if rank is None else int(curve.costs[rank])


def spent(curves: Sequence[Curve], ranks: Ranks) -> int:
    return sum(price(curve, rank) for curve, rank in zip(curves, ranks, strict=True))


def error(curve: Curve, rank: int | None) -> float:
    assert curve.errors is not None
    return 0.0 if rank is None else float(curve.errors[rank])


def total_error(curves: Sequence[Curve], ranks: Ranks) -> float:
    return sum(error(curve, rank) for curve, rank in zip(curves, ranks, strict=True))


def options(curve: Curve, floor: int = 1) -> list[int | None]:
    return [*range(floor, len(curve.costs)), None]


def best_error(curves: Sequence[Curve], budget: int) -> float:
    """The least total error of any allocation within the budget, by trying them all."""
    prices, errors = np.zeros(1), np.zeros(1)
    for target in curves:
        every = options(target) if len(target.costs) > 1 else [None]
        prices = np.add.outer(prices, [price(target, rank) for rank in every]).ravel()
        errors = np.add.outer(errors, [error(target, rank) for rank in every]).ravel()
    return float(errors[prices <= budget].min())


def corners(curve: Curve) -> list[int | None]:
    """Options on the lower convex hull of error against price: no mix of two others is as good."""
    every = options(curve)
    points = [(price(curve, rank), error(curve, rank)) for rank in every]
    kept: list[int | None] = []
    for index, (x, y) in enumerate(points):
        mixes = [
            e0 + (e1 - e0) * (x - p0) / (p1 - p0)
            for p0, e0 in points[:index]
            for p1, e1 in points[index + 1 :]
        ]
        if all(y < mix for mix in mixes):
            kept.append(every[index])
    return kept


def assert_nothing_affordable_is_left(curves: Sequence[Curve], budget: int, ranks: Ranks) -> None:
    left = budget - spent(curves, ranks)
    assert left >= 0
    for curve, rank in zip(curves, ranks, strict=True):
        if rank is not None:
            assert all(
                price(curve, other) - price(curve, rank) > left
                for other in options(curve)
                if price(curve, other) > price(curve, rank)
            )
