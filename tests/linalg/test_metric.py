"""Laws of one side of a metric."""

from __future__ import annotations

import pytest
import torch
from linalg_cases import diagonal_gram, full_gram, rng, weight

from eckart.linalg import Side, relative_error
from eckart.types import Moment

NAN, INF = float("nan"), float("inf")


def test_second_moment_weighs_the_error_of_the_outputs() -> None:
    W = weight("tall").double()
    X = torch.from_numpy(rng("tokens").normal(size=(50, 24)))
    W_hat = W + torch.from_numpy(rng("noise").normal(size=(40, 24)))
    side = Side.from_second_moment(Moment(50, second=X.T @ X))
    expected = (X @ (W - W_hat).T).norm() / (X @ W.T).norm()
    assert relative_error(W, W_hat, Side(), side) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_mean_absolute_scales_each_input_by_its_mean_size_to_the_power(power: float) -> None:
    W = weight("tall").double()
    X = torch.from_numpy(rng("tokens").normal(size=(50, 24)))
    side = Side.from_mean_absolute(Moment(50, absolute=X.abs().sum(0)), power)
    R = X.abs().mean(0) ** power
    W_hat = 0.5 * W.flip(1)
    expected = ((W - W_hat) * R).norm() / (W * R).norm()
    assert relative_error(W, W_hat, Side(), side) == pytest.approx(float(expected), rel=1e-10)


def test_count_of_tokens_changes_nothing() -> None:
    gram = full_gram(24, 50)
    one, other = (Side.from_second_moment(Moment(tokens, second=gram)) for tokens in (1, 1000))
    assert torch.allclose(one.gram, other.gram, rtol=1e-12)


@pytest.mark.parametrize("gram", [diagonal_gram(12), full_gram(12, 40)], ids=["diagonal", "full"])
def test_shrinking_is_relative_to_the_mean_of_the_diagonal(gram: torch.Tensor) -> None:
    diagonal = gram if gram.ndim == 1 else gram.diagonal()
    addition = 0.3 * diagonal.mean() * (torch.ones(12) if gram.ndim == 1 else torch.eye(12))
    expected = Side(gram + addition).gram
    assert torch.allclose(Side(gram).shrunk(0.3).gram, expected, rtol=1e-12)
    assert torch.allclose(Side(1e20 * gram).shrunk(0.3).gram, expected, rtol=1e-12)


def test_identity_cannot_be_shrunk_and_is_not_singular() -> None:
    assert Side().shrunk(0.5).gram is None
    assert not Side().singular


@pytest.mark.parametrize(
    ("gram", "singular"),
    [
        (diagonal_gram(8), False),
        (torch.tensor([1.0, 0.0]), True),
        (full_gram(8, 30), False),
        (full_gram(8, 7), True),
        (full_gram(200, 199), True),
        (full_gram(200, 20), True),
    ],
)
def test_singular_is_known_up_to_rounding(gram: torch.Tensor, singular: bool) -> None:
    assert Side(gram).singular is singular
    assert not Side(gram).shrunk(1e-6).singular


@pytest.mark.parametrize("gram", [None, diagonal_gram(9), full_gram(9, 30), full_gram(9, 4)])
def test_root_times_its_transpose_is_the_gram(gram: torch.Tensor | None) -> None:
    side = Side(gram)
    R = side.times_root(torch.eye(9, dtype=torch.float64))
    product = side.times_gram(torch.eye(9, dtype=torch.float64))
    assert torch.allclose(R @ R.T, product, rtol=0, atol=1e-12)
    if not side.singular:
        assert torch.allclose(side.over_root(R.T), torch.eye(9, dtype=torch.float64), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        ([1.0, NAN], "not finite"),
        ([1.0, INF], "not finite"),
        ([[1.0, NAN], [NAN, 1.0]], "not finite"),
        ([0.0, 0.0], "positive"),
        ([[0.0, 0.0], [0.0, 0.0]], "positive"),
        ([1.0, -1.0], "nowhere negative"),
        ([[1.0, 0.0], [0.0, -1.0]], "nowhere negative"),
        ([[1.0, 0.0]], "square"),
        ([[[1.0]]], "square"),
    ],
)
def test_bad_metric_is_refused(gram: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Side(torch.tensor(gram))


def test_weight_that_the_metric_does_not_see_has_no_error() -> None:
    side = Side(torch.tensor([1.0, 0.0]))
    W = torch.tensor([[0.0, 3.0]])
    assert relative_error(W, torch.zeros(1, 2), Side(), side) == 0
