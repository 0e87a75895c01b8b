"""The leading eigenvectors of a symmetric positive semidefinite matrix, exactly or nearly.

All of it is for `(…, m, m)` in float64: many matrices of one size are solved together or one by one alike.
The nearly exact solvers find a subspace at random and rotate it so that its best directions come first
(Rayleigh-Ritz). Then the energy of each vector, `vᵀ A v`, is exact even where the vector is not, so what a
basis leaves behind is known exactly however it was found.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Solver = Literal["auto", "exact", "randomized", "nystrom"]
"""How eigenvectors are found; `auto` is `exact` or `randomized` by size and rank."""

OVERSAMPLING = 10, 0.25
"""Columns beyond the rank that a random subspace has: so many, and this share of the rank. Weights have
flat spectra, and a share costs less there than the products that would sharpen as much."""

PRODUCTS = 6
"""Products with the matrix in `randomized`. One leaves errors 3-10% above the best on weights, six at most
0.3%, and 0.05% where the inputs' energies fall (`benchmarks/solvers.py`)."""

RANDOM_SIZE, RANDOM_SHARE = 2048, 1 / 8
"""`auto` is `randomized` for matrices at least as large, up to this share of their size as rank: there it
takes from a half to two thirds of the time, and at twice the size a third. Measured by
`benchmarks/solvers.py` on two CPU cores; not on a GPU."""


def choose(size: int, rank: int | None) -> Solver:
    """What `auto` stands for, for a matrix of this size. `None` is full rank."""
    large = size >= RANDOM_SIZE and rank is not None and rank <= RANDOM_SHARE * size
    return "randomized" if large else "exact"


def leading(
    matrix: Tensor, rank: int | None = None, solver: Solver = "auto", seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The leading eigenvalues and vectors of `matrix (…, m, m)`, symmetric positive semidefinite.

    Args:
        rank: how many vectors to find, from 1 to `m`; default all.
        solver: `exact`, `randomized` (Halko, Martinsson & Tropp 2011, algorithm 4.4), `nystrom` (Tropp et
            al. 2017, algorithm 3) or `auto`. Where a random subspace would be everything, it is `exact`.
        seed: of what is drawn at random. It is drawn on the CPU, so it is the same on every device.

    Returns:
        Energies `vᵀ A v`, descending, `(…, k)`, and orthonormal columns `(…, m, rank)`. From `exact`,
        `k = m`: all eigenvalues. From the others `k = rank`, and no energy exceeds its eigenvalue.

    Raises:
        ValueError: there is no such solver.
    """
    if solver not in get_args(Solver):
        raise ValueError(f"no solver {solver!r}; there are: {', '.join(get_args(Solver))}")
    size = matrix.shape[-1]
    if solver == "auto":
        solver = choose(size, rank)
    rank = rank or size
    assert 1 <= rank <= size
    columns = rank + OVERSAMPLING[0] + int(OVERSAMPLING[1] * rank)
    if solver == "exact" or columns >= size:
        energies, vectors = torch.linalg.eigh(matrix)
        return energies.flip(-1), vectors[..., -rank:].flip(-1)
    start = torch.randn(size, columns, generator=torch.Generator().manual_seed(seed), dtype=matrix.dtype)
    find = _range if solver == "randomized" else _nystrom
    return _rotated(matrix, find(matrix, start.to(matrix.device), rank), rank)


def _range(matrix: Tensor, start: Tensor, rank: int) -> Tensor:
    """An orthonormal basis of what powers of the matrix make of `start`.

    Without a new basis at each step all columns would turn to the leading vector and the small ones be
    lost to rounding. In between, LU makes it: as safe as QR, and several times as fast (Li et al. 2017,
    algorithm 971).
    """
    Y = matrix @ start
    for _ in range(PRODUCTS - 1):
        Y = matrix @ _independent(Y)
    basis: Tensor = torch.linalg.qr(Y).Q
    return basis


def _independent(tall: Tensor) -> Tensor:
    """Other columns that span what these do, none far from independent of the others."""
    factored, pivots, _ = torch.linalg.lu_factor_ex(tall)
    permutation, lower, _ = torch.lu_unpack(factored, pivots)
    columns: Tensor = lower.take_along_dim(permutation.argmax(-1, keepdim=True), -2)
    return columns


def _nystrom(matrix: Tensor, start: Tensor, rank: int) -> Tensor:
    """The leading vectors of `A Ω (Ωᵀ A Ω)⁻¹ Ωᵀ A`, one product with the matrix.

    A small multiple of the identity is added to `A`, so that the core in the middle can be factored.
    """
    start = torch.linalg.qr(start).Q
    Y = matrix @ start
    length = torch.linalg.matrix_norm(Y, keepdim=True)
    shift = len(start) ** 0.5 * torch.finfo(Y.dtype).eps * length
    Y = Y + torch.where(length > 0, shift, 1.0) * start
    core = start.mT @ Y
    L = torch.linalg.cholesky((core + core.mT) / 2)
    Q, T = torch.linalg.qr(torch.linalg.solve_triangular(L.mT, Y, upper=True, left=False))
    basis: Tensor = Q @ torch.linalg.eigh(T @ T.mT).eigenvectors[..., -rank:]
    return basis


def _rotated(matrix: Tensor, basis: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The `rank` best directions in a subspace, best first (Rayleigh-Ritz)."""
    inner = basis.mT @ (matrix @ basis)
    energies, vectors = torch.linalg.eigh((inner + inner.mT) / 2)
    return energies[..., -rank:].flip(-1), basis @ vectors[..., -rank:].flip(-1)
