"""Laws of the solvers that find a subspace at random, over every metric and larger shapes; many at once."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from linalg_cases import LARGER, LARGEST, METRICS, RANDOM, SHAPES, full_gram, oracle_norm, rng, units, weight

from eckart.linalg import Decomposition, Side, Solver, decompose, decompose_many, eigen, weighted_norm
from eckart.linalg.solve import TIE_BREAK

SOLVERS: tuple[Solver, ...] = ("exact", *RANDOM)
EXCESS = {"randomized": 1e-4, "nystrom": 0.1}
"""How much larger than the smallest error that of rank `LARGEST` may be here."""


def over_the_larger_table(test):
    for mark in (
        pytest.mark.parametrize("shape", LARGER),
        pytest.mark.parametrize("metric", METRICS),
        pytest.mark.parametrize("solver", RANDOM),
    ):
        test = mark(test)
    return test


@cache
def solved(
    shape: str, metric: str, solver: Solver, **options: int
) -> tuple[torch.Tensor, Side, Side, Decomposition]:
    W = weight(shape)
    left, right = METRICS[metric](*W.shape)
    return W, left, right, decompose(W, left, right, solver=solver, **{"rank": LARGEST, **options})


def approximation(W: torch.Tensor, found: Decomposition, rank: int) -> torch.Tensor:
    U, V = found.factors(W, rank)
    return U @ V


def matrix(values: torch.Tensor, *key: object) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues."""
    Q = torch.linalg.qr(torch.from_numpy(rng("rotation", *key).normal(size=2 * (len(values),)))).Q
    return Q * values @ Q.T


@over_the_larger_table
def test_error_is_the_tail_at_every_rank(shape: str, metric: str, solver: Solver) -> None:
    W, left, right, found = solved(shape, metric, solver)
    values, tail = found.spectrum.values, found.spectrum.tail
    assert values.shape == (LARGEST,)
    assert tail.shape == (LARGEST + 1,)
    whole = oracle_norm(W.double(), left, right)
    # In a direction that costs nothing the tail still holds the tie break.
    slack = (3 * np.sqrt(TIE_BREAK) if metric == "singular full" else 1e-7) * whole
    assert np.sqrt(tail[0]) == pytest.approx(whole, rel=1e-8)
    for rank in range(1, LARGEST + 1):
        E = W.double() - approximation(W, found, rank)
        error = oracle_norm(E, left, right)
        assert np.sqrt(tail[rank]) == pytest.approx(error, rel=1e-7, abs=slack)
        assert weighted_norm(E, left, right) == pytest.approx(error, rel=1e-7, abs=slack)
        assert found.predicted_error(rank) == pytest.approx(error / whole, rel=1e-7, abs=slack / whole)
    assert all(after <= before for before, after in pairwise(values))
    assert all(after <= before for before, after in pairwise(tail))
    assert tail[:-1] - tail[1:] == pytest.approx(values**2, rel=1e-9, abs=1e-13 * tail[0])


@over_the_larger_table
def test_error_is_close_to_the_smallest_and_never_below_it(shape: str, metric: str, solver: Solver) -> None:
    best = solved(shape, metric, "exact")[-1].spectrum
    found = solved(shape, metric, solver)[-1].spectrum
    rounding = 1e-12 * best.tail[0]
    assert (found.tail >= best.tail[: LARGEST + 1] - rounding).all()
    assert np.sqrt(found.tail[-1]) <= np.sqrt(best.tail[LARGEST] + rounding) * (1 + EXCESS[solver])


@pytest.mark.parametrize("solver", RANDOM)
@pytest.mark.parametrize("metric", METRICS)
def test_rank_of_the_weight_is_enough(metric: str, solver: Solver) -> None:
    W, _, _, found = solved("larger rank-deficient", metric, solver)
    for rank in (LARGER["larger rank-deficient"][2], LARGEST):
        error = (W - approximation(W, found, rank)).norm() / W.norm()
        # A singular metric shows only a part of the weight; the tie break brings the rest to light.
        assert error <= (1e-5 if metric == "singular full" else 1e-7)


@over_the_larger_table
def test_basis_is_orthonormal_and_its_signs_fixed(shape: str, metric: str, solver: Solver) -> None:
    basis = solved(shape, metric, solver)[-1].basis
    assert basis.shape == (LARGER[shape][0], LARGEST)
    identity = torch.eye(LARGEST, dtype=torch.float64)
    assert torch.allclose(basis.T @ basis, identity, rtol=0, atol=1e-12)
    assert (basis.gather(0, basis.abs().argmax(dim=0, keepdim=True)) > 0).all()


@over_the_larger_table
def test_same_input_gives_the_same_bits_and_a_seed_others(shape: str, metric: str, solver: Solver) -> None:
    W, left, right, found = solved(shape, metric, solver)
    torch.manual_seed(2)
    again = decompose(W.clone(), left, right, rank=LARGEST, solver=solver)
    assert torch.equal(found.basis, again.basis)
    assert np.array_equal(found.spectrum.tail, again.spectrum.tail)
    assert not torch.equal(solved(shape, metric, solver, seed=1)[-1].basis, found.basis)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("solver", RANDOM)
def test_scaling_a_metric_scales_the_tail_alone(metric: str, scale: float, solver: Solver) -> None:
    W, _, _, found = solved("larger wide", metric, solver)
    again = decompose(W, *METRICS[metric](*W.shape, scale), rank=LARGEST, solver=solver)
    unit = scale ** units(metric)
    assert again.spectrum.tail / unit == pytest.approx(found.spectrum.tail, rel=1e-9)
    assert torch.allclose(approximation(W, again, 7), approximation(W, found, 7), rtol=0, atol=1e-7)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [*SHAPES, *LARGER])
@pytest.mark.parametrize("metric", METRICS)
def test_full_rank_reproduces_the_weight(shape: str, metric: str, solver: Solver) -> None:
    W, _, _, found = solved(shape, metric, solver, rank=min(weight(shape).shape))
    W = W.double()
    assert (W - approximation(W, found, min(W.shape))).norm() <= 1e-11 * W.norm()
    assert found.spectrum.tail[-1] == 0


@pytest.mark.parametrize("solver", RANDOM)
@pytest.mark.parametrize(("rank", "same"), [(47, False), (48, True), (70, True)])
def test_subspace_of_everything_is_found_exactly(rank: int, same: bool, solver: Solver) -> None:
    # For rank 48, 10 + 12 more columns are all 70.
    exact, found = (solved("larger wide", "full", kind, rank=rank)[-1] for kind in ("exact", solver))
    assert torch.equal(found.basis, exact.basis) is same
    assert np.array_equal(found.spectrum.tail, exact.spectrum.tail) is same


@pytest.mark.parametrize("solver", RANDOM)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", LARGER)
def test_zero_weight_gives_zeros(shape: str, metric: str, solver: Solver) -> None:
    W = torch.zeros_like(weight(shape))
    found = decompose(W, *METRICS[metric](*W.shape), rank=LARGEST, solver=solver)
    assert not approximation(W, found, LARGEST).any()
    assert not found.spectrum.tail.any()
    assert found.predicted_error(3) == 0


def test_small_values_are_not_lost_beside_large_ones() -> None:
    # Products without a new basis at each step would leave of the last value its sixth power.
    values = torch.logspace(0, -14, 80, dtype=torch.float64)
    energies, _ = eigen.leading(matrix(values), 50, "randomized")
    assert energies.numpy() == pytest.approx(values[:50].numpy(), rel=1e-5, abs=1e-15)


def test_nystrom_keeps_the_leading_vectors_of_the_nystrom_approximation() -> None:
    A, rank = matrix(torch.logspace(0, -3, 90, dtype=torch.float64)), 8
    energies, vectors = eigen.leading(A, rank, "nystrom", seed=5)
    draw = torch.randn(90, rank + 12, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    product = (A @ draw).numpy()
    whole = product @ np.linalg.solve(draw.numpy().T @ product, product.T)
    expected = np.linalg.eigh(whole)[1][:, -rank:]
    assert (vectors @ vectors.T).numpy() == pytest.approx(expected @ expected.T, abs=1e-9)
    assert torch.allclose(energies, torch.linalg.eigvalsh(vectors.T @ A @ vectors).flip(0), rtol=1e-10)


@pytest.mark.parametrize("solver", SOLVERS)
def test_energies_are_those_of_the_vectors(solver: Solver) -> None:
    A = full_gram(90, 200)
    energies, vectors = eigen.leading(A, 20, solver)
    assert vectors.shape == (90, 20)
    assert torch.allclose(((A @ vectors) * vectors).sum(0), energies[:20], rtol=1e-10)
    assert len(energies) == (90 if solver == "exact" else 20)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("solver", RANDOM)
@pytest.mark.parametrize("own", [0, 1, 5, 30])
def test_matrices_of_low_rank_are_no_problem(solver: Solver, seed: int, own: int) -> None:
    values = torch.cat([torch.logspace(0, -8, own), torch.zeros(60 - own)]).double()
    energies, vectors = eigen.leading(matrix(values, seed), 8, solver, seed)
    identity = torch.eye(8, dtype=torch.float64)
    assert torch.allclose(vectors.T @ vectors, identity, rtol=0, atol=1e-12)
    if own <= 8:
        assert energies.numpy() == pytest.approx(values[:8].numpy(), abs=1e-14)


@pytest.mark.parametrize(
    ("size", "rank", "solver"),
    [
        (eigen.RANDOM_SIZE, None, "exact"),
        (eigen.RANDOM_SIZE, 1, "randomized"),
        (eigen.RANDOM_SIZE - 1, 1, "exact"),
        (eigen.RANDOM_SIZE, int(eigen.RANDOM_SIZE * eigen.RANDOM_SHARE), "randomized"),
        (eigen.RANDOM_SIZE, int(eigen.RANDOM_SIZE * eigen.RANDOM_SHARE) + 1, "exact"),
        (4 * eigen.RANDOM_SIZE, int(eigen.RANDOM_SIZE * eigen.RANDOM_SHARE) + 1, "randomized"),
    ],
)
def test_auto_is_random_for_a_small_share_of_a_large_matrix(
    size: int, rank: int | None, solver: Solver
) -> None:
    assert eigen.choose(size, rank) == solver


def test_auto_is_what_it_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    W, left, right, exact = solved("larger tall", "full", "exact")
    assert torch.equal(decompose(W, left, right, rank=LARGEST).basis, exact.basis)
    monkeypatch.setattr(eigen, "RANDOM_SIZE", 64)
    monkeypatch.setattr(eigen, "RANDOM_SHARE", 0.5)
    found = decompose(W, left, right, rank=LARGEST)
    assert torch.equal(found.basis, solved("larger tall", "full", "randomized")[-1].basis)
    # The smaller side counts, and no rank means every rank.
    assert len(decompose(W, left, right).spectrum.values) == 70


def test_unknown_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="no solver 'svd'; there are: auto, exact, randomized, nystrom"):
        solved("tall", "identity", "svd")  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", LARGER)
def test_many_together_are_as_one_by_one(shape: str, metric: str, solver: Solver) -> None:
    first = weight(shape).double()
    weights = [first, torch.zeros_like(first), 1e6 * first.flip(0), -first.flip(1)]
    lefts, rights = zip(*(METRICS[metric](*first.shape) for _ in weights), strict=True)
    options = {"rank": LARGEST, "solver": solver, "seed": 3}
    alone = [decompose(*each, **options) for each in zip(weights, lefts, rights, strict=True)]
    for together in (True, False, None):
        found = decompose_many(weights, lefts, rights, **options, together=together)
        for W, one, other in zip(weights, found, alone, strict=True):
            tail = other.spectrum.tail
            assert one.spectrum.tail == pytest.approx(tail, rel=1e-10, abs=1e-12 * tail[0])
            assert one.basis.shape == other.basis.shape
            difference = approximation(W, one, 7) - approximation(W, other, 7)
            assert difference.norm() <= 1e-10 * W.norm()


def test_many_together_may_be_weighed_in_different_ways() -> None:
    W = weight("tall")
    lefts, rights = zip(*(metric(*W.shape) for metric in METRICS.values()), strict=True)
    found = decompose_many([W] * len(lefts), lefts, rights, together=True)
    for one, left, right in zip(found, lefts, rights, strict=True):
        tail = decompose(W, left, right).spectrum.tail
        assert one.spectrum.tail == pytest.approx(tail, rel=1e-10, abs=1e-12 * tail[0])


def test_many_of_nothing_are_none() -> None:
    assert decompose_many([], [], [], together=True) == []


def test_many_of_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        decompose_many([weight("tall"), weight("wide")], [Side()] * 2, [Side()] * 2)


def test_many_with_too_few_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        decompose_many([weight("tall")] * 2, [Side()] * 2, [Side()], together=True)
