"""The structures: what `r` costs in each, and how a rank-`r` pair becomes the tensors that are saved."""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.types import Factors, Structure

MAX_SWAPS = 1000
GROWTH = 2.0
"""Largest entry, in absolute value, that the coefficients of a pivoted weight may keep."""


def parameters(structure: Structure, out_features: int, in_features: int, rank: int) -> int:
    """Parameters of one weight at `rank`: `r(out + in)` low-rank, `r(out + in − r)` pivoted."""
    if structure == "dense":
        return out_features * in_features
    saved = rank if structure == "pivoted" else 0
    return rank * (out_features + in_features - saved)


def largest_paying_rank(structure: Structure, out_features: int, in_features: int) -> int:
    """The largest rank with fewer parameters than the dense weight; 0 where there is none.

    Low-rank: the largest integer below `out·in / (out + in)`. Pivoted: `min(out, in) − 1`.
    """
    dense = out_features * in_features
    if structure == "dense":
        return 0
    if structure == "pivoted":
        return min(out_features, in_features) - 1
    return (dense - 1) // (out_features + in_features)


def factorize(structure: Structure, U: Tensor, V: Tensor) -> Factors:
    """Put `Ŵ = U V`, `U (out, r)`, `V (r, in)`, into a structure, losslessly.

    Raises:
        ValueError: the structure has no factors.
    """
    if structure == "lowrank":
        return Factors("lowrank", U, V)
    if structure == "pivoted":
        return _pivoted(U, V)
    raise ValueError(f"{structure} has no factors")


def reconstruct(factors: Factors) -> Tensor:
    """`Ŵ (out, in)` in float64."""
    U, V = factors.U.double(), factors.V.double()
    if factors.order is None:
        return U @ V
    return torch.cat([V, U @ V])[factors.order.long()]


def _pivoted(U: Tensor, V: Tensor) -> Factors:
    """Keep `r` rows of `Ŵ` and write the others in terms of them (PIFA, ICML 2025; PivGa 2512.03062).

    They choose the rows by QR with column pivoting. Here: LU with partial pivoting, then swaps until
    no coefficient exceeds `GROWTH` (maxvol: Goreinov et al. 2010). It runs in torch on any device,
    and coefficients near 1 round best in bfloat16.
    """
    out_features, rank = U.shape
    assert rank < out_features
    orthonormal = torch.linalg.qr(U).Q
    pivots = _row_order(orthonormal)
    coefficients = _coefficients(orthonormal, pivots, rank)
    for _ in range(MAX_SWAPS):
        largest = int(coefficients.abs().argmax())
        row, column = divmod(largest, rank)
        if coefficients[row, column].abs() <= GROWTH:
            break
        # Swapping a kept row for this one multiplies the volume of the kept rows by the entry's size.
        pivot = coefficients[row, column].clone()
        others = coefficients[row].clone()
        others[column] -= 1
        replaced = coefficients[:, column].clone()
        coefficients -= torch.outer(replaced / pivot, others)
        coefficients[row] = -others / pivot
        coefficients[row, column] = 1 / pivot
        pivots[[column, rank + row]] = pivots[[rank + row, column]]
    kept, _ = pivots[:rank].sort()
    rest, _ = pivots[rank:].sort()
    pivots = torch.cat([kept, rest])
    coefficients = _coefficients(orthonormal, pivots, rank)
    order = torch.empty_like(pivots)
    order[pivots] = torch.arange(out_features, device=pivots.device)
    return Factors("pivoted", coefficients, U[kept] @ V, order.to(torch.int32))


def _row_order(tall: Tensor) -> Tensor:
    """Rows of `tall (n, r)` in the order that LU with partial pivoting takes them."""
    _, swaps = torch.linalg.lu_factor(tall)
    order = list(range(len(tall)))
    for row, other in enumerate((swaps - 1).tolist()):
        order[row], order[other] = order[other], order[row]
    return torch.tensor(order, device=tall.device)


def _coefficients(tall: Tensor, pivots: Tensor, rank: int) -> Tensor:
    """Rows `pivots[rank:]` in terms of rows `pivots[:rank]`."""
    coefficients: Tensor = torch.linalg.solve(tall[pivots[:rank]], tall[pivots[rank:]], left=False)
    return coefficients
