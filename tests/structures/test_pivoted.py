"""Laws of the pivoted structure: that it loses nothing, and that its coefficients stay small."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from linalg_cases import METRICS, SHAPES, rng, sizes, weight

from eckart import structures
from eckart.linalg import decompose
from eckart.structures.pivoted import GROWTH, _coefficients, _row_order, _swap, pivoted

CEILING = GROWTH * (1 + 1e-6)


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng("normal", shape).normal(size=shape))


def reconstruct(factors: dict[str, torch.Tensor]) -> torch.Tensor:
    return structures.find("pivoted").dense(factors, len(factors["V.weight"]))[0]


def assert_sound(factors: dict[str, torch.Tensor], U: torch.Tensor, V: torch.Tensor) -> None:
    """A pivoted weight that loses nothing, with small coefficients and an order that is a permutation."""
    (out_features, rank), in_features = U.shape, V.shape[1]
    assert factors["U.weight"].shape == (out_features - rank, rank)
    assert factors["V.weight"].shape == (rank, in_features)
    assert factors["order"].dtype == torch.int32
    assert factors["order"].sort().values.tolist() == list(range(out_features))
    assert factors["U.weight"].abs().max() <= CEILING
    W_hat = U @ V
    assert (reconstruct(factors) - W_hat).norm() <= 1e-9 * W_hat.norm()
    # The first `rank` of the order are rows of `Ŵ` as they are.
    rows = torch.cat(
        [factors["V.weight"], factors["V.weight"].new_full((out_features - rank, in_features), torch.nan)]
    )
    kept = rows[factors["order"].long()]
    is_kept = ~kept.isnan().any(dim=1)
    assert is_kept.sum() == rank
    assert (kept[is_kept] - W_hat[is_kept]).abs().max() <= 1e-12 * W_hat.abs().max()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("metric", METRICS)
def test_pivoted_loses_nothing_of_the_best_approximation(metric: str, shape: str) -> None:
    W = weight(shape)
    found = decompose(W, *METRICS[metric](*W.shape))
    for rank in sizes(shape, "pivoted"):
        U, V = found.factors(W, rank)
        assert_sound(pivoted(U, V), U, V)


@pytest.mark.parametrize("seed", range(5))
def test_swaps_keep_the_coefficients_that_a_recomputation_gives(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(80, 20, generator=draw, dtype=torch.float64)).Q
    pivots = torch.randperm(80, generator=draw)
    coefficients = _coefficients(basis, pivots, 20)
    assert coefficients.abs().max() > GROWTH
    before = torch.linalg.det(basis[pivots[:20]]).abs()
    swaps = _swap(coefficients, pivots)
    assert swaps > 1
    assert torch.allclose(coefficients, _coefficients(basis, pivots, 20), rtol=0, atol=1e-9)
    assert torch.linalg.det(basis[pivots[:20]]).abs() > GROWTH**swaps * before
    assert coefficients.abs().max() <= GROWTH
    assert _swap(coefficients, pivots) == 0


def growing(out_features: int, rank: int) -> torch.Tensor:
    """Wilkinson's example: partial pivoting takes rows as they come, and coefficients double each step."""
    ones = torch.ones(out_features, rank, dtype=torch.float64)
    return torch.eye(out_features, rank, dtype=torch.float64) - 0.999 * ones.tril(-1)


HARD: dict[str, torch.Tensor] = {
    "a rank of 1": normal(12, 1),
    "one row less than all": normal(12, 11),
    "growth of partial pivoting, 12": growing(40, 12),
    "growth of partial pivoting, 60": growing(150, 60),
    "growth whose coefficients have no digits left": torch.cat(
        [growing(60, 60), -torch.rand(60, 60).double()]
    ),
    "nearly equal rows": normal(20, 8)[torch.arange(40) // 2] + 1e-13 * normal(40, 8),
    "repeated rows": normal(9, 8)[torch.arange(40) % 9],
    "zero rows": torch.cat([torch.zeros(15, 8, dtype=torch.float64), normal(15, 8)]),
    "only as many rows as the rank": torch.cat([normal(8, 8), torch.zeros(15, 8, dtype=torch.float64)]),
    "dependent columns": normal(30, 3) @ normal(3, 8),
    "equal columns": normal(30, 1).expand(30, 8),
    "a zero column": normal(30, 8) * torch.tensor([1.0] * 7 + [0.0]),
    "nothing": torch.zeros(30, 8, dtype=torch.float64),
    "columns of every size": normal(30, 8) * torch.logspace(0, -150, 8, dtype=torch.float64),
    "rows of every size": normal(30, 8) * torch.logspace(0, -12, 30, dtype=torch.float64)[:, None],
    "smooth columns": torch.linspace(-1, 1, 60, dtype=torch.float64)[:, None] ** torch.arange(12),
}


@pytest.mark.parametrize("name", HARD)
def test_pivoted_is_lossless_and_bounded_at_its_worst(name: str) -> None:
    U = HARD[name]
    V = normal(U.shape[1], 17)
    assert_sound(pivoted(U, V), U, V)


def test_factors_below_the_smallest_float_stay_finite() -> None:
    U = 1e-321 * normal(6, 2)
    factors = pivoted(U, normal(2, 5))
    assert factors["U.weight"].abs().max() <= CEILING
    assert torch.isfinite(factors["V.weight"]).all()


def test_partial_pivoting_alone_would_have_grown() -> None:
    # Else the case above shows nothing.
    basis = torch.linalg.qr(HARD["growth of partial pivoting, 60"]).Q
    assert _coefficients(basis, _row_order(basis)[0], 60).abs().max() > 1e6


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    out_features=st.integers(2, 40),
    share=st.floats(0, 1),
    own=st.integers(0, 40),
    copies=st.integers(1, 5),
    decades=st.sampled_from([0, 3, 12]),
)
def test_pivoted_is_lossless_and_bounded_for_any_factors(
    seed: int, out_features: int, share: float, own: int, copies: int, decades: int
) -> None:
    rank = 1 + int(share * (out_features - 2))
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    U = random(out_features, own) @ random(own, rank) if own < rank else random(out_features, rank)
    U = U[torch.arange(out_features) // copies]
    U = U * torch.logspace(0, -decades, out_features, dtype=torch.float64)[:, None]
    V = random(rank, 11)
    assert_sound(pivoted(U, V), U, V)


def test_order_puts_each_output_back() -> None:
    U, V, x = normal(9, 4), normal(4, 6), normal(6)
    factors = pivoted(U, V)
    kept = factors["V.weight"] @ x
    outputs = torch.cat([kept, factors["U.weight"] @ kept])
    for index, place in enumerate(factors["order"].tolist()):
        assert outputs[place] == pytest.approx(float(U[index] @ V @ x), rel=1e-9)
