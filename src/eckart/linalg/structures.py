"""The structures: what `r` costs in each, and how a rank-`r` pair becomes the tensors that are saved."""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.types import CORRECTED, Factors, Structure

GROWTH = 2.0
"""Largest entry, in absolute value, that the coefficients of a pivoted weight may keep."""
MAX_ROUNDS = 10
"""Of swapping and looking again. One is the rule; the bound is against rounding that never settles."""

DEPENDENT = 1e-8
"""A column is taken to depend on others where they leave less than this share of it."""


def parameters(structure: Structure, out_features: int, in_features: int, rank: int) -> int:
    """Parameters of one weight at `rank`: `r(out + in)` low-rank, `r(out + in − r)` pivoted.

    Beside a quantized weight they come on top of its own, of which each counts as one.
    """
    if structure == "dense":
        return out_features * in_features
    saved = rank if structure == "pivoted" else 0
    whole = out_features * in_features if structure == CORRECTED else 0
    return whole + rank * (out_features + in_features - saved)


def largest_paying_rank(structure: Structure, out_features: int, in_features: int) -> int:
    """The largest rank with fewer parameters than the dense weight; 0 where there is none.

    Low-rank: the largest integer below `out·in / (out + in)`. Pivoted: `min(out, in) − 1`. Beside a quantized
    weight there is none: it saves bytes.
    """
    dense = out_features * in_features
    if structure in ("dense", CORRECTED):
        return 0
    if structure == "pivoted":
        return min(out_features, in_features) - 1
    return (dense - 1) // (out_features + in_features)


def factorize(structure: Structure, U: Tensor, V: Tensor) -> Factors:
    """Put `Ŵ = U V`, `U (out, r)`, `V (r, in)`, into a structure, losslessly.

    Raises:
        ValueError: the structure is not made of a product, or the factors have entries that are not finite.
    """
    if not (torch.isfinite(U).all() and torch.isfinite(V).all()):
        raise ValueError("the factors have entries that are not finite")
    if structure == "lowrank":
        return Factors("lowrank", U, V)
    if structure == "pivoted":
        return _pivoted(U, V)
    raise ValueError(f"{structure} has no factors")


def reconstruct(factors: Factors) -> Tensor:
    """`Ŵ (out, in)` in float64."""
    U, V = factors.U.double(), factors.V.double()
    if factors.order is None:
        return U @ V if factors.Q is None else factors.Q.double() + U @ V
    return torch.cat([V, U @ V])[factors.order.long()]


def _pivoted(U: Tensor, V: Tensor) -> Factors:
    """Keep `r` rows of `Ŵ` and write the others in terms of them (PIFA, ICML 2025; PivGa 2512.03062).

    They choose the rows by QR with column pivoting. Here: LU with partial pivoting, then swaps until
    no coefficient exceeds `GROWTH` (maxvol: Goreinov et al. 2010). It runs in torch on any device,
    and coefficients near 1 round best in bfloat16.
    """
    out_features, rank = U.shape
    assert rank < out_features
    basis = U
    pivots, independent = _row_order(basis)
    if not independent:
        # The weight's own rank is lower than `rank`. Any basis around the columns of `U` serves as well.
        basis = torch.linalg.qr(U).Q
        pivots, _ = _row_order(basis)
    coefficients = _coefficients(basis, pivots, rank)
    for _ in range(MAX_ROUNDS):
        if not _swap(coefficients, pivots):
            break
        # From coefficients far beyond `GROWTH` the updates lose digits: look again at exact ones.
        coefficients = _coefficients(basis, pivots, rank)
    kept, columns = pivots[:rank].sort()
    rest, rows = pivots[rank:].sort()
    order = torch.empty_like(pivots)
    order[torch.cat([kept, rest])] = torch.arange(out_features, device=pivots.device)
    return Factors("pivoted", coefficients[rows][:, columns], U[kept] @ V, order.to(torch.int32))


def _swap(coefficients: Tensor, pivots: Tensor) -> int:
    """Swap rows in and out of the kept ones, in place, until no coefficient exceeds `GROWTH`.

    Returns:
        How many that took. Each multiplies the volume of the kept rows by more than `GROWTH`, so it ends.
    """
    rank = coefficients.shape[1]
    swaps = 0
    while True:
        row, column = divmod(int(coefficients.abs().argmax()), rank)
        pivot = coefficients[row, column].clone()
        if not pivot.abs() > GROWTH:
            return swaps
        others = coefficients[row].clone()
        replaced = coefficients[:, column] / pivot
        coefficients -= torch.outer(replaced, others)
        coefficients[:, column] = replaced
        coefficients[row] = -others / pivot
        coefficients[row, column] = 1 / pivot
        pivots[[column, rank + row]] = pivots[[rank + row, column]]
        swaps += 1


def _row_order(tall: Tensor) -> tuple[Tensor, bool]:
    """Rows of `tall (n, r)` in the order that LU with partial pivoting takes them.

    Returns:
        The order, and whether each column is independent of those before it, clear of rounding.
    """
    LU, swaps, _ = torch.linalg.lu_factor_ex(tall)
    order = list(range(len(tall)))
    for row, other in enumerate((swaps - 1).tolist()):
        order[row], order[other] = order[other], order[row]
    lengths = tall.norm(dim=0).clamp_min(torch.finfo(tall.dtype).tiny)
    independent = LU.diagonal().abs() > DEPENDENT * lengths
    return torch.tensor(order, device=tall.device), bool(independent.all())


def _coefficients(tall: Tensor, pivots: Tensor, rank: int) -> Tensor:
    """Rows `pivots[rank:]` in terms of rows `pivots[:rank]`."""
    coefficients: Tensor = torch.linalg.solve(tall[pivots[:rank]], tall[pivots[rank:]], left=False)
    return coefficients
