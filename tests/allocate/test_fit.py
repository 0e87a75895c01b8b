"""A few measured losses become a loss at every rank."""

from __future__ import annotations

import numpy as np
import pytest

from eckart.allocate import fitted
from eckart.allocate.fit import STEEPEST

TAIL = np.array([10.0, 4.0, 2.0, 1.0, 0.25, 0.0])


@pytest.mark.parametrize(("scale", "power"), [(1.0, 1.0), (3e-3, 1.0), (0.2, 0.5), (5.0, 2.0)])
def test_power_of_the_tail_is_found_from_two_ranks(scale: float, power: float) -> None:
    truth = scale * TAIL**power
    np.testing.assert_allclose(fitted(TAIL, [1, 3], truth[[1, 3]]), truth)


def test_one_measurement_sets_the_scale() -> None:
    np.testing.assert_allclose(fitted(TAIL, [2], [0.5]), 0.25 * TAIL)


def test_curve_never_rises_however_the_measurements_lie() -> None:
    generator = np.random.default_rng(0)
    for _ in range(100):
        ranks = sorted(generator.choice(5, 3, replace=False).tolist())
        errors = fitted(TAIL, ranks, generator.normal(size=3))
        assert (np.diff(errors) <= 0).all()
        assert np.isfinite(errors).all()
        assert (errors >= 0).all()
        assert errors[-1] == 0


def test_noise_around_nothing_is_nothing() -> None:
    assert not fitted(TAIL, [1, 2], [0.0, -1e-7]).any()
    np.testing.assert_allclose(fitted(TAIL, [1, 2], [0.4, -1e-7]), 0.1 * TAIL)


def test_nearly_equal_tails_do_not_ask_for_any_power() -> None:
    tail = np.array([1.0, 0.999, 0.998, 0.0])
    errors = fitted(tail, [1, 2], [1.0, 0.1])
    assert errors[0] / errors[2] <= (1.0 / 0.998) ** STEEPEST + 1e-12


@pytest.mark.parametrize(("ranks", "losses"), [([], []), ([1], [np.nan]), ([1, 2], [0.5])])
def test_what_says_nothing_is_refused(ranks: list[int], losses: list[float]) -> None:
    with pytest.raises(ValueError, match="one at least"):
        fitted(TAIL, ranks, losses)
