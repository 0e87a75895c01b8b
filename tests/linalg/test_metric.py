"""Laws of one side of a metric."""

from __future__ import annotations

import pytest
import torch
from linalg_cases import diagonal_gram, full_gram, rng, weight

from eckart.linalg import Side, relative_error, weighted_norm
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


def test_count_of_tokens_changes_the_unit_alone() -> None:
    gram = full_gram(24, 50)
    one, other = (Side.from_second_moment(Moment(tokens, second=gram)) for tokens in (1, 1000))
    assert torch.allclose(one.gram, other.gram, rtol=1e-12)
    assert one.scale == pytest.approx(1000 * other.scale, rel=1e-12)


def test_fisher_rows_weigh_each_output_by_its_mean_over_windows() -> None:
    G = torch.from_numpy(rng("gradients").normal(size=(7, 40, 24)))
    side = Side.from_fisher_rows(Moment(700, fisher=(G**2).sum(dim=(0, 2)), windows=7))
    importance = (G**2).mean(dim=0).sum(dim=1)
    assert torch.allclose(side.scale * side.gram, importance, rtol=1e-12)
    W = weight("tall").double()
    expected = (importance.sqrt()[:, None] * W).norm()
    assert weighted_norm(W, side, Side()) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e20])
@pytest.mark.parametrize("gram", [diagonal_gram(12), full_gram(12, 40)], ids=["diagonal", "full"])
def test_scale_is_what_was_taken_off(gram: torch.Tensor, unit: float) -> None:
    side = Side(unit * gram)
    assert torch.allclose(side.scale * side.gram, unit * gram, rtol=1e-12, atol=0)
    assert torch.allclose(side.gram, Side(gram).gram, rtol=1e-12, atol=0)


@pytest.mark.parametrize("unit", [1e-30, 1.0, 1e20])
@pytest.mark.parametrize("gram", [diagonal_gram(12), full_gram(12, 40)], ids=["diagonal", "full"])
def test_shrinking_is_relative_to_the_mean_of_the_diagonal(gram: torch.Tensor, unit: float) -> None:
    diagonal = gram if gram.ndim == 1 else gram.diagonal()
    addition = 0.3 * diagonal.mean() * (torch.ones(12) if gram.ndim == 1 else torch.eye(12)).double()
    shrunk = Side(unit * gram).shrunk(0.3)
    assert torch.allclose(shrunk.scale * shrunk.gram, unit * (gram + addition), rtol=1e-12, atol=0)
    # The mean has grown by 0.3 of itself, and that is what the second amount is relative to.
    twice, more = shrunk.shrunk(0.1), 0.1 * 1.3 / 0.3 * addition
    assert torch.allclose(twice.scale * twice.gram, unit * (gram + addition + more), rtol=1e-12)
    assert (twice.gram if gram.ndim == 1 else twice.gram.diagonal()).mean() == pytest.approx(1, rel=1e-12)


def test_identity_cannot_be_shrunk_and_is_not_singular() -> None:
    assert Side().shrunk(0.5).gram is None
    assert Side().scale == Side().shrunk(0.5).scale == 1
    assert not Side().singular


def test_shrunk_side_is_that_of_the_sum() -> None:
    # The one is factored by Cholesky, the other by its eigenvectors.
    gram = full_gram(24, 10)
    eye = torch.eye(24, dtype=torch.float64)
    shrunk, summed = Side(gram).shrunk(0.01), Side(gram + 0.01 * gram.diagonal().mean() * eye)
    for side in (shrunk, summed):
        L = side.times_root(eye)
        assert torch.allclose(L @ L.T, side.gram, rtol=0, atol=1e-12)
        assert torch.allclose(side.over_root(L.T), eye, rtol=0, atol=1e-9)
        assert not side.singular
    assert torch.equal(shrunk.times_root(eye), shrunk.times_root(eye).tril())


def test_shrinking_by_less_than_a_gram_is_indefinite_leaves_it_singular() -> None:
    # Sums of float32 products may have eigenvalues a little below zero.
    Q = torch.linalg.qr(torch.from_numpy(rng("rotation").normal(size=(12, 12)))).Q
    values = torch.linspace(1, 2, 12, dtype=torch.float64)
    values[3] = -1e-5
    gram = Q * values @ Q.T
    assert Side(gram).shrunk(1e-6).singular
    assert not Side(gram).shrunk(1e-4).singular


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
