"""Laws of the refit, against the formulas of the papers and against the least squares that it solves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from linalg_cases import full_gram, rng

from eckart.linalg import Side, decompose, follow, refit_left, regress
from eckart.linalg.refit import SAFE_RIDGE

OUT, IN, TOKENS = 18, 14, 200
RIDGES = [0.0, SAFE_RIDGE / 2, 1e-4, 0.3]

Sample = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def sample(tokens: int = TOKENS) -> Sample:
    """A weight `(out, in)`, what its target should give `(tokens, out)`, and what it reads `(tokens, in)`."""
    draw = rng("sample", tokens)
    W = torch.from_numpy(draw.normal(size=(OUT, IN)))
    X = torch.from_numpy(draw.normal(size=(tokens, IN)) * np.geomspace(3, 0.1, IN))
    X_hat = 0.8 * X + 0.3 * torch.from_numpy(draw.normal(size=(tokens, IN)))
    return W, X @ W.T, X_hat


def moments(Y: torch.Tensor, X: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return Y.T @ X / len(X), X.T @ X / len(X)


def loss(W: torch.Tensor, Y: torch.Tensor, X: torch.Tensor) -> float:
    return float((Y - X @ W.T).square().sum() / len(X))


def objective(W: torch.Tensor, ridge: float) -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], float]:
    """What `regress` says that it minimises."""

    def value(W_new: torch.Tensor, Y: torch.Tensor, X: torch.Tensor) -> float:
        damping = ridge * float(X.square().sum()) / X.numel()
        return loss(W_new, Y, X) + damping * float((W_new - W).square().sum())

    return value


def stacked(W: torch.Tensor, Y: torch.Tensor, X: torch.Tensor, ridge: float) -> torch.Tensor:
    """The same by least squares over tokens, with the ridge as more of them."""
    damping = ridge * float(X.square().mean())
    rows = np.concatenate([X.numpy(), np.sqrt(damping * len(X)) * np.eye(IN)])
    wanted = np.concatenate([(Y - X @ W.T).numpy(), np.zeros((IN, OUT))])
    return W + torch.from_numpy(np.linalg.lstsq(rows, wanted, rcond=None)[0].T)


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("tokens", [TOKENS, IN, 5, 1])
def test_regression_is_the_least_squares_over_tokens_nearest_the_weight(tokens: int, ridge: float) -> None:
    W, Y, X = sample(tokens)
    found = regress(W, *moments(Y, X), ridge)
    assert found.dtype == torch.float64
    # Least squares on moments knows directions of the data half as exactly as on the data.
    assert (found - stacked(W, Y, X, ridge)).norm() <= 1e-6 * W.norm()


@pytest.mark.parametrize("ridge", RIDGES)
def test_no_perturbation_lowers_the_objective(ridge: float) -> None:
    W, Y, X = sample()
    value = objective(W, ridge)
    found = regress(W, *moments(Y, X), ridge)
    best = value(found, Y, X)
    for step in range(20):
        change = torch.from_numpy(rng("change", step).normal(size=(OUT, IN)))
        assert value(found + 10.0 ** -(step % 5) * change, Y, X) > best
    assert best <= value(W, Y, X)


def test_nothing_to_learn_changes_nothing() -> None:
    W, _, X = sample()
    assert torch.allclose(regress(W, *moments(X @ W.T, X)), W, rtol=0, atol=1e-12)
    zero = torch.zeros(OUT, IN), torch.zeros(IN, IN)
    assert torch.equal(regress(W, *zero, 0.1), W)


@pytest.mark.parametrize("ridge", RIDGES)
def test_directions_never_taken_keep_what_the_weight_does_there(ridge: float) -> None:
    W, Y, X = sample(5)
    found = regress(W, *moments(Y, X), ridge)
    unseen = torch.from_numpy(np.linalg.svd(X.numpy())[2][5:])
    assert torch.allclose(found @ unseen.T, W @ unseen.T, rtol=0, atol=1e-9)
    if ridge == 0:
        assert torch.allclose(X @ found.T, Y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rank", [1, 4, 13])
def test_truncated_it_is_reduced_rank_regression(rank: int) -> None:
    # [E[y x̂ᵀ] Ĉ^-½]_r Ĉ^-½ (AA-SVD).
    W, Y, X = sample()
    cross, second = moments(Y, X)
    values, vectors = np.linalg.eigh(second.numpy())
    inverse_root = vectors / np.sqrt(values) @ vectors.T
    P, s, Qt = np.linalg.svd(cross.numpy() @ inverse_root, full_matrices=False)
    expected = P[:, :rank] * s[:rank] @ Qt[:rank] @ inverse_root
    best = regress(W, cross, second)
    U, V = decompose(best, Side(), Side(second)).factors(best, rank)
    assert (U @ V).numpy() == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("tokens", [TOKENS, 5])
def test_truncated_it_is_the_best_of_its_rank_ridge_and_all(tokens: int, ridge: float) -> None:
    W, Y, X = sample(tokens)
    value = objective(W, ridge)
    best, right = follow(W, torch.linalg.pinv(W) @ Y.T @ X, X.T @ X, tokens, ridge)
    found = decompose(best, Side(), right)
    U, V = found.factors(best, 4)
    reached = value(U @ V, Y, X)
    # The objective is that of the best dense weight and the tail, in one unit.
    assert reached == pytest.approx(value(best, Y, X) + found.spectrum.tail[4], rel=1e-6)
    for step in range(20):
        draw = rng("factors", step)
        dU, dV = (10.0 ** -(step % 5) * torch.from_numpy(draw.normal(size=F.shape)) for F in (U, V))
        assert value((U + dU) @ (V + dV), Y, X) >= reached * (1 - 1e-9)


@pytest.mark.parametrize("left", [Side(), Side(full_gram(OUT, 9, "out")).shrunk(0.01)], ids=["plain", "left"])
@pytest.mark.parametrize("rank", [1, 4, 9])
@pytest.mark.parametrize("tokens", [TOKENS, 7])
def test_refit_is_never_worse_than_what_was_not_fitted(tokens: int, rank: int, left: Side) -> None:
    W, Y, X = sample(tokens)
    L = left.times_root(torch.eye(OUT, dtype=torch.float64))

    def weighted(U: torch.Tensor, V: torch.Tensor) -> float:
        return float(((Y - X @ (U @ V).T) @ L).square().sum())

    cross, second = moments(Y, X)
    best = regress(W, cross, second)
    U, V = decompose(W, left, Side(second)).factors(W, rank)
    fitted = decompose(best, left, Side(second)).factors(best, rank)
    again = refit_left(U, V, cross, second), V
    slack = 1e-9 * weighted(torch.zeros_like(U), V)
    assert weighted(*fitted) <= weighted(*again) + slack
    assert weighted(*again) <= weighted(U, V) + slack
    assert weighted(*again) < 0.99 * weighted(U, V) + slack


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("tokens", [TOKENS, 3])
def test_refitted_left_factor_is_the_least_squares_over_what_the_right_one_gives(
    tokens: int, ridge: float
) -> None:
    W, Y, X = sample(tokens)
    U, V = decompose(W, Side(), Side()).factors(W, 5)
    found = refit_left(U, V, *moments(Y, X), ridge)
    assert found.shape == U.shape
    inner = X @ V.T
    damping = ridge * float(inner.square().mean())
    rows = np.concatenate([inner.numpy(), np.sqrt(damping * tokens) * np.eye(5)])
    wanted = np.concatenate([(Y - inner @ U.T).numpy(), np.zeros((5, OUT))])
    expected = U + torch.from_numpy(np.linalg.lstsq(rows, wanted, rcond=None)[0].T)
    assert (found - expected).norm() <= 1e-6 * U.norm()


def test_refitted_left_factor_is_the_formula_of_svd_llm() -> None:
    W, Y, X = sample()
    cross, second = moments(Y, X)
    U, V = decompose(W, Side(), Side()).factors(W, 5)
    expected = cross @ V.T @ torch.linalg.inv(V @ second @ V.T)
    assert torch.allclose(refit_left(U, V, cross, second), expected, rtol=1e-8)


def test_right_factor_with_equal_rows_is_no_problem() -> None:
    W, Y, X = sample()
    cross, second = moments(Y, X)
    U, V = decompose(W, Side(), Side()).factors(W, 4)
    doubled = torch.cat([U, U], dim=1) / 2, torch.cat([V, V])
    again = refit_left(*doubled, cross, second) @ doubled[1]
    assert torch.allclose(again, refit_left(U, V, cross, second) @ V, rtol=0, atol=1e-9)


def test_following_does_to_what_is_read_now_what_the_weight_did_to_what_was_read() -> None:
    W, Y, X_hat = sample()
    X = torch.linalg.lstsq(W, Y.T).solution.T
    found, right = follow(W.float(), X.T @ X_hat, X_hat.T @ X_hat, TOKENS)
    assert torch.allclose(found, regress(W, *moments(Y, X_hat)), rtol=0, atol=1e-5)
    assert torch.allclose(right.scale * right.gram, X_hat.T @ X_hat / TOKENS, rtol=1e-12)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_unit_of_the_data_changes_nothing(ridge: float) -> None:
    W, Y, X = sample()
    one, other = (regress(W, *moments(unit * Y, unit * X), ridge) for unit in (1.0, 1e10))
    assert torch.allclose(one, other, rtol=0, atol=1e-9)


def test_moments_are_left_as_they_were() -> None:
    W, Y, X = sample()
    given = W, *moments(Y, X)
    before = [each.clone() for each in given]
    regress(*given, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.parametrize("place", range(3))
def test_what_is_not_finite_is_refused(place: int) -> None:
    given = [each.clone() for each in (sample()[0], *moments(*sample()[1:]))]
    given[place][1, 1] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        regress(*given)


def test_moments_of_another_size_are_refused() -> None:
    W, Y, X = sample()
    cross, second = moments(Y, X)
    with pytest.raises(ValueError, match=r"\(17, 14\) and \(14, 14\) do not fit a weight 18x14"):
        regress(W, cross[1:], second)
    with pytest.raises(ValueError, match="do not fit"):
        regress(W, cross, second[1:])
