"""Laws of the solver, over every metric and shape."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from fitting import SPECTRAL
from hypothesis import given, settings
from hypothesis import strategies as st
from linalg_cases import (
    METRICS,
    SHAPES,
    Solved,
    dense_gram,
    diagonal_gram,
    full_gram,
    oracle_error,
    oracle_norm,
    replaced,
    rng,
    sizes,
    units,
    weight,
)

from eckart import structures
from eckart.linalg import (
    Decomposition,
    Problem,
    Side,
    decompose,
    relative_error,
    weighted_norm,
)
from eckart.linalg.solve import TIE_BREAK

every_case = [
    pytest.mark.parametrize("shape", SHAPES),
    pytest.mark.parametrize("metric", METRICS),
]


def over_the_table(test):
    for mark in every_case:
        test = mark(test)
    return test


def solved(shape: str, metric: str) -> tuple[torch.Tensor, Side, Side, Decomposition]:
    W = weight(shape)
    left, right = METRICS[metric](*W.shape)
    return W, left, right, decompose(W, left, right)


def approximation(W: torch.Tensor, found: Decomposition, rank: int):
    U, V = found.factors(W, rank)
    return U @ V


@pytest.mark.parametrize("structure", SPECTRAL)
@over_the_table
def test_measured_error_is_the_spectral_tail(shape: str, metric: str, structure: str) -> None:
    W, left, right, found = solved(shape, metric)
    # In a direction that costs nothing the tail still holds the tie break.
    slack = 3 * np.sqrt(TIE_BREAK) if metric == "singular full" else 1e-7
    for rank in sizes(shape, structure):
        W_hat = replaced(Solved(W, left, right, found), structure, rank)
        assert relative_error(W, W_hat, left, right) == pytest.approx(
            found.predicted_error(rank), rel=1e-7, abs=slack
        )


@over_the_table
def test_relative_error_is_what_the_grams_say(shape: str, metric: str) -> None:
    W, left, right, found = solved(shape, metric)
    W_hat = approximation(W, found, 1) + 0.1 * W.double()
    assert relative_error(W, W_hat, left, right) == pytest.approx(
        oracle_error(W, W_hat, left, right), rel=1e-9
    )


@over_the_table
def test_full_rank_reproduces_the_weight(shape: str, metric: str) -> None:
    W, _, _, found = solved(shape, metric)
    U, V = found.factors(W, min(W.shape))
    W = W.double()
    assert (U @ V - W).norm() <= 1e-11 * W.norm()


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_metric_is_the_plain_svd(shape: str) -> None:
    W = weight(shape)
    found = decompose(W, Side(), Side())
    P, values, Qt = np.linalg.svd(W.double().numpy(), full_matrices=False)
    own = SHAPES[shape][2]
    assert found.spectrum.values[:own] == pytest.approx(values[:own], rel=1e-10)
    assert found.spectrum.values[own:] == pytest.approx(0, abs=1e-7 * values[0])
    for rank in sizes(shape):
        expected = P[:, :rank] * values[:rank] @ Qt[:rank]
        assert np.abs(approximation(W, found, rank).numpy() - expected).max() < 1e-10 * values[0]


@pytest.mark.parametrize("shape", ["tall", "wide", "square", "bf16"])
@pytest.mark.parametrize("metric", [name for name in METRICS if name != "singular full"])
def test_optimum_is_that_of_the_direct_formula(shape: str, metric: str) -> None:
    # Ŵ = L⁻ᵀ [Lᵀ W R]_r R⁻¹ with Cholesky factors, which these Grams have.
    W, left, right, found = solved(shape, metric)
    M = W.double().numpy()
    L, R = (np.linalg.cholesky(dense_gram(side, n)) for side, n in zip((left, right), M.shape, strict=True))
    P, values, Qt = np.linalg.svd(L.T @ M @ R, full_matrices=False)
    assert found.spectrum.values == pytest.approx(values, rel=1e-8, abs=1e-11 * values[0])
    for rank in sizes(shape):
        direct = np.linalg.solve(L.T, P[:, :rank] * values[:rank] @ Qt[:rank]) @ np.linalg.inv(R)
        assert np.abs(approximation(W, found, rank).numpy() - direct).max() < 1e-7 * np.abs(M).max()


@pytest.mark.parametrize("damping", [1e-8, 1e-4, 1e-2])
@pytest.mark.parametrize("shape", ["tall", "wide", "square"])
def test_singular_moment_does_no_worse_than_a_damped_cholesky(shape: str, damping: float) -> None:
    W, left, right, found = solved(shape, "singular full")
    M, G = W.double().numpy(), dense_gram(right, W.shape[1])
    assert np.linalg.matrix_rank(G) < len(G)
    R = np.linalg.cholesky(G + damping * np.eye(len(G)))
    P, values, Qt = np.linalg.svd(M @ R, full_matrices=False)
    for rank in (1, 3, 6):
        peer = P[:, :rank] * values[:rank] @ Qt[:rank] @ np.linalg.inv(R)
        ours = relative_error(W, approximation(W, found, rank), left, right)
        assert ours <= oracle_error(W, peer, left, right) * (1 + 1e-6)


def test_rank_of_the_moment_is_enough() -> None:
    W = weight("square")
    right = Side(full_gram(32, 5))
    assert relative_error(W, approximation(W, decompose(W, Side(), right), 5), Side(), right) < 1e-7


@pytest.mark.parametrize("scale", [1e-30, 0.1, 1e30])
@pytest.mark.parametrize("metric", METRICS)
def test_scaling_a_metric_scales_the_tail_alone(metric: str, scale: float) -> None:
    W, _, _, found = solved("tall", metric)
    again, unit = decompose(W, *METRICS[metric](*W.shape, scale)), scale ** units(metric)
    values, tail = found.spectrum.values, found.spectrum.tail
    assert again.spectrum.values / np.sqrt(unit) == pytest.approx(values, rel=1e-9, abs=1e-10 * values[0])
    assert again.spectrum.tail / unit == pytest.approx(tail, rel=1e-9, abs=1e-12 * tail[0])
    assert again.predicted_error(7) == pytest.approx(found.predicted_error(7), rel=1e-9)
    assert torch.allclose(approximation(W, again, 7), approximation(W, found, 7), rtol=0, atol=1e-9)


@over_the_table
def test_spectrum_is_in_the_metrics_own_unit(shape: str, metric: str) -> None:
    W, left, right, found = solved(shape, metric)
    whole = oracle_norm(W.double(), left, right)
    # The tie break adds a little of the plain norm where the metric sees little.
    assert np.sqrt(found.spectrum.tail[0]) == pytest.approx(whole, rel=1e-8)
    assert weighted_norm(W, left, right) == pytest.approx(whole, rel=1e-9)
    for rank in sizes(shape):
        E = W.double() - approximation(W, found, rank)
        slack = 1e-4 if metric == "singular full" else 1e-7
        assert np.sqrt(found.spectrum.tail[rank]) == pytest.approx(
            oracle_norm(E, left, right), rel=1e-7, abs=slack * whole
        )


def test_directions_that_cost_nothing_come_by_plain_energy() -> None:
    W = weight("square").double()
    found = decompose(W, Side(), Side(full_gram(32, 5)))
    P = found.basis[:, :5]
    rest = torch.linalg.svdvals(W - P @ (P.T @ W))
    for rank in (6, 12, 20):
        left = (W - approximation(W, found, rank)).norm()
        assert left == pytest.approx(float(rest[rank - 5 :].norm()), rel=1e-3)


@pytest.mark.parametrize("metric", METRICS)
def test_scaling_a_weight_scales_its_spectrum_alone(metric: str) -> None:
    W, left, right, found = solved("tall", metric)
    again = decompose(W.double() * 1e-25, left, right)
    assert again.spectrum.values == pytest.approx(found.spectrum.values * 1e-25, rel=1e-9)
    assert again.predicted_error(7) == pytest.approx(found.predicted_error(7), rel=1e-9)


@over_the_table
def test_more_rank_is_never_worse(shape: str, metric: str) -> None:
    W, left, right, found = solved(shape, metric)
    every = range(1, min(W.shape) + 1)
    measured = [relative_error(W, approximation(W, found, rank), left, right) for rank in every]
    predicted = [found.predicted_error(rank) for rank in (0, *every)]
    assert all(after <= before + 1e-7 for before, after in pairwise(measured))
    assert all(after <= before for before, after in pairwise(predicted))
    assert predicted[0] == 1
    assert predicted[-1] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.floats(-6, 0))
@pytest.mark.parametrize("metric", METRICS)
def test_no_perturbation_beats_the_solver(metric: str, seed: int, size: float) -> None:
    W, left, right, found = solved("wide", metric)
    U, V = (factor.numpy() for factor in found.factors(W, 5))
    draw = np.random.default_rng(seed)
    dU, dV = draw.normal(size=U.shape), draw.normal(size=V.shape)
    best = oracle_error(W, U @ V, left, right)
    assert oracle_error(W, (U + 10**size * dU) @ (V + 10**size * dV), left, right) >= best - 1e-9


@pytest.mark.parametrize("start", range(3))
@pytest.mark.parametrize("metric", [name for name in METRICS if name != "singular full"])
def test_alternating_least_squares_reaches_the_solver_and_never_beats_it(metric: str, start: int) -> None:
    W, left, right, found = solved("tall", metric)
    M = W.double().numpy()
    GL, GR = dense_gram(left, M.shape[0]), dense_gram(right, M.shape[1])
    U = rng("als", start).normal(size=(M.shape[0], 4))
    for _ in range(300):
        V = np.linalg.solve(U.T @ GL @ U, U.T @ GL @ M)
        U = np.linalg.solve(V @ GR @ V.T, V @ GR @ M.T).T
    best = oracle_error(W, approximation(W, found, 4), left, right)
    assert best * (1 - 1e-9) <= oracle_error(W, U @ V, left, right) <= best * 1.01


@over_the_table
def test_largest_entry_of_each_left_vector_is_positive(shape: str, metric: str) -> None:
    _, _, _, found = solved(shape, metric)
    basis = found.basis
    assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()
    identity = torch.eye(basis.shape[1], dtype=torch.float64)
    assert torch.allclose(basis.T @ basis, identity, rtol=0, atol=1e-12)


@over_the_table
def test_same_input_gives_the_same_bits(shape: str, metric: str) -> None:
    W, left, right, found = solved(shape, metric)
    again = decompose(W.clone(), left, right)
    assert torch.equal(found.basis, again.basis)
    assert np.array_equal(found.spectrum.values, again.spectrum.values)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", ["tall", "wide", "square"])
def test_negated_weight_has_the_same_basis(shape: str, metric: str) -> None:
    # Singular vectors are known up to sign; the rule takes that freedom away.
    W, left, right, found = solved(shape, metric)
    again = decompose(-W, left, right)
    assert torch.allclose(again.basis[:, :8], found.basis[:, :8], rtol=0, atol=1e-6)


@over_the_table
def test_factors_are_balanced(shape: str, metric: str) -> None:
    W, _, _, found = solved(shape, metric)
    U, V = found.factors(W, SHAPES[shape][2])
    assert torch.allclose(U.norm(dim=0), V.norm(dim=1), rtol=1e-9)
    assert U.dtype == V.dtype == torch.float64


@pytest.mark.parametrize("metric", METRICS)
def test_truncated_gives_the_same_factors(metric: str) -> None:
    W, _, _, found = solved("tall", metric)
    cut = found.truncated(9)
    assert cut.basis.shape == (40, 9)
    assert all(torch.equal(a, b) for a, b in zip(cut.factors(W, 6), found.factors(W, 6), strict=True))
    assert cut.predicted_error(6) == found.predicted_error(6)


@pytest.mark.parametrize("metric", METRICS)
def test_inputs_are_left_as_they_were(metric: str) -> None:
    W = weight("tall")
    left, right = METRICS[metric](*W.shape)
    before = W.clone(), *(None if side.gram is None else side.gram.clone() for side in (left, right))
    found = decompose(W, left, right)
    for structure in SPECTRAL:
        replaced(Solved(W, left, right, found), structure, 5)
    after = W, left.gram, right.gram
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("structure", SPECTRAL)
@over_the_table
def test_zero_weight_gives_zeros_and_no_error(shape: str, metric: str, structure: str) -> None:
    W = torch.zeros_like(weight(shape))
    left, right = METRICS[metric](*W.shape)
    found = decompose(W, left, right)
    for rank in sizes(shape, structure):
        (fitted,) = structures.find(structure).fit([Solved(W, left, right, found)], rank)
        for tensor in structures.values_of(fitted).values():
            assert torch.isfinite(tensor).all()
            assert torch.isfinite(tensor.bfloat16()).all()
        made, _ = structures.find(structure).dense(structures.values_of(fitted), rank)
        assert not made.any()
        assert fitted.error == found.predicted_error(rank) == 0
        assert relative_error(W, made, left, right) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("shape", ["tall", "wide", "bf16"])
def test_weight_that_is_not_finite_is_refused(shape: str, bad: float) -> None:
    W = weight(shape)
    W[1, 2] = bad
    with pytest.raises(ValueError, match="weight has entries that are not finite"):
        decompose(W, Side(), Side())


@pytest.mark.parametrize("shape", ["tall", "wide", "rank-deficient tall"])
def test_cholesky_of_the_output_side_gives_the_same_optimum_as_its_eigenvectors(shape: str) -> None:
    W = weight(shape)
    gram, right = full_gram(len(W), 10, "out"), METRICS["full"](*W.shape)[1]
    shrunk = Side(gram).shrunk(0.01)
    summed = Side(gram + 0.01 * gram.diagonal().mean() * torch.eye(len(W)).double())
    one, other = decompose(W, shrunk, right), decompose(W, summed, right)
    tail = other.spectrum.tail
    assert one.spectrum.tail == pytest.approx(tail, rel=1e-8, abs=1e-12 * tail[0])
    assert torch.allclose(approximation(W, one, 5), approximation(W, other, 5), rtol=0, atol=1e-8)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", ["tall", "wide", "one row", "bf16"])
def test_rank_asked_for_only_shortens_the_basis(shape: str, metric: str) -> None:
    W, left, right, found = solved(shape, metric)
    for rank in sizes(shape):
        cut = decompose(W, left, right, rank=rank)
        assert torch.allclose(cut.basis, found.basis[:, :rank], rtol=0, atol=1e-14)
        assert np.array_equal(cut.spectrum.tail, found.spectrum.tail)
    assert torch.equal(decompose(W, left, right, rank=1000).basis, found.basis)


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_below_one_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        decompose(weight("tall"), Side(), Side(), rank=rank)


@pytest.mark.parametrize("gram", [torch.tensor([1.0, 0.0] * 20), full_gram(40, 39)], ids=["diagonal", "full"])
def test_singular_output_side_is_refused_and_shrinking_mends_it(gram: torch.Tensor) -> None:
    W = weight("tall")
    with pytest.raises(ValueError, match="shrink it first"):
        decompose(W, Side(gram), Side())
    decompose(W, Side(gram).shrunk(1e-6), Side())


@pytest.mark.parametrize("left", [Side(diagonal_gram(24)), Side()], ids=["left", "right"])
def test_metric_of_another_size_is_refused(left: Side) -> None:
    with pytest.raises(ValueError, match="does not fit a weight 40x24"):
        decompose(weight("tall"), left, Side(torch.ones(1)))


def test_a_problem_goes_with_its_last_reference() -> None:
    """A decomposition outweighs the model: none waits for the collector of cycles."""
    W, left, right = weight("wide"), *METRICS["full"](*weight("wide").shape)
    made = Problem(W, left, right)
    made.approximation(1)
    found = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert found() is None
    finally:
        gc.enable()
