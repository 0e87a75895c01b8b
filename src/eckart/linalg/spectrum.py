"""Singular values and what is read off them: what a rank keeps, and how a truncated weight answers.

Values alone take no vectors: they are the roots of the eigenvalues of the Gram on the smaller side, in
float64. Squaring halves the digits of the small ones, not of the large: what lies beyond a rank is known to
about 1e-7 of the whole norm, which is where an error that is called zero ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from eckart.linalg import eigen
from eckart.linalg.eigen import OVERSAMPLING
from eckart.linalg.metric import DTYPE
from eckart.linalg.products import products_of
from eckart.types import Spectrum

PIECE = 4096
"""Entries of the longer side that are upcast at once: of a large weight all would be gigabytes."""
LEAST_WIDTH = 256
"""Of a half of a Gram that is worth a product of its own."""
MARGIN = 1.5
"""So many times the rank are sought in `leading_spectrum`, and the best kept. The last values are then 0.8%
too small for a Gaussian weight, whose spectrum is as flat as any, and 0.5% for those of all-MiniLM-L6-v2;
were no more sought than are kept, 2%."""
ROUNDING = 1e-12
"""Share of the energy that is rounding: a rank that misses only this much keeps what was asked for."""
DRAWS = 256
"""Random inputs that a mean cosine is taken over."""


def spectrum_of(weight: Tensor) -> Spectrum:
    """All singular values of `W (out, in)`, any dtype, on any device.

    Raises:
        ValueError: the weight has entries that are not finite.
    """
    wide = _wide(weight)
    gram = torch.zeros(len(wide), len(wide), dtype=DTYPE, device=wide.device)
    for piece in wide.split(PIECE, dim=1):
        _add_upper(gram, piece.to(DTYPE))
    squares = torch.linalg.eigvalsh(gram, UPLO="U").flip(-1).clamp_min(0)
    return _with_tail(squares, 0.0)


def leading_spectrum(weight: Tensor, rank: int, seed: int = 0) -> Spectrum:
    """About the `rank` largest singular values, by a random subspace (Halko, Martinsson & Tropp 2011, 4.4).

    The subspace is found from a Gram in float32; the energy of the weight in it and the whole energy are
    summed in float64. So no value exceeds the one that it stands for, and the tail is what is really left
    behind.

    Args:
        weight: `W (out, in)`, any dtype, on any device.
        rank: from 1; where a random subspace would be everything, all values are found, exactly.
        seed: of the subspace, drawn on the CPU.

    Raises:
        ValueError: the weight has entries that are not finite.
    """
    wider, size = int(MARGIN * rank), min(weight.shape)
    if covers(rank, size):
        return spectrum_of(weight)
    wide = _wide(weight)
    gram = torch.zeros(len(wide), len(wide), device=wide.device)
    # Its square must not overflow, however large its entries are; a power of two rounds none of them.
    scale = torch.exp2(torch.frexp(wide.abs().max().to(DTYPE)).exponent.to(DTYPE))
    with products_of(weight.dtype):
        for piece in wide.split(PIECE, dim=1):
            _add_upper(gram, (piece.to(DTYPE) / scale).float())
    gram = gram.triu_()
    gram += gram.triu(1).T
    _, vectors = eigen.leading(gram, wider, "randomized", seed)
    del gram
    basis = torch.linalg.qr(vectors[:, :rank].to(DTYPE)).Q
    inner = torch.zeros(rank, rank, dtype=DTYPE, device=wide.device)
    whole = torch.zeros((), dtype=DTYPE, device=wide.device)
    for piece in wide.split(PIECE, dim=1):
        upcast = piece.to(DTYPE)
        whole += upcast.square().sum()
        seen = basis.T @ upcast
        inner += seen @ seen.T
    squares = torch.linalg.eigvalsh(inner).flip(-1).clamp_min(0)
    return _with_tail(squares, max(float(whole) - float(squares.sum()), 0.0))


def covers(rank: int, size: int) -> bool:
    """Whether a random subspace for `rank` would be everything that a side of this size has."""
    wider = int(MARGIN * rank)
    return wider + OVERSAMPLING[0] + int(OVERSAMPLING[1] * wider) >= size


def energy_rank(found: Spectrum, share: float) -> int | None:
    """The smallest rank that keeps `share` of the energy `Σσ²`; `None` where it lies beyond the values."""
    left = (1 - share + ROUNDING) * found.tail[0]
    enough = np.flatnonzero(found.tail <= left)
    return int(enough[0]) if len(enough) else None


def effective_rank(found: Spectrum) -> float:
    """`exp(−Σ p log p)`, `p = σ / Σσ`, of all values (Roy & Vetterli 2007); 0 of a zero weight."""
    total = float(found.values.sum())
    if not total:
        return 0.0
    p = found.values[found.values > 0] / total
    return float(np.exp(-(p * np.log(p)).sum()))


def stable_rank(found: Spectrum) -> float:
    """`‖W‖²_F / σ₁²` (Rudelson & Vershynin 2007); 0 of a zero weight."""
    first = float(found.values[0]) ** 2
    return float(found.tail[0]) / first if first else 0.0


def random_cosines(found: Spectrum, ranks: Sequence[int], draws: int = DRAWS, seed: int = 0) -> list[float]:
    """The mean cosine between `W x` and `Ŵ x` at each rank, `x` standard normal, `Ŵ` the truncated SVD.

    `z = Vᵀ x` is standard normal too, so that the cosine, `sqrt(Σ_{i≤r} σ_i² z_i² / Σ σ_i² z_i²)`, takes the
    spectrum alone. What the values do not cover counts with its mean, the tail.

    Args:
        ranks: from 1 to the number of values.
        draws: of `x`.
    """
    z = np.random.default_rng(seed).standard_normal((draws, len(found.values)))
    energies = np.cumsum((found.values * z) ** 2, axis=1)
    whole = energies[:, -1] + found.tail[-1]
    return [_mean_root(energies[:, rank - 1], whole) for rank in ranks]


def output_cosines(weight: Tensor, basis: Tensor, inputs: Tensor, ranks: Sequence[int]) -> list[float]:
    """The mean cosine between `y = W x` and `P_r P_rᵀ y`, what the first `r` columns of a basis keep of it.

    Args:
        weight: `W (out, in)`.
        basis: `P`, orthonormal columns `(out, k)`.
        inputs: rows `x`, `(n, in)`.
        ranks: from 1 to `k`.
    """
    y = inputs.to(DTYPE) @ weight.to(DTYPE).T
    energies = (y @ basis).square().cumsum(1).cpu().numpy()
    whole = y.square().sum(1).cpu().numpy()
    return [_mean_root(energies[:, rank - 1], whole) for rank in ranks]


def _mean_root(kept: np.ndarray, whole: np.ndarray) -> float:
    """Of outputs that are zero nothing is lost, and nothing is said: they do not count."""
    seen = whole > 0
    return float(np.sqrt(np.minimum(kept[seen] / whole[seen], 1.0)).mean()) if seen.any() else 1.0


def _wide(weight: Tensor) -> Tensor:
    """The weight with its smaller side first."""
    if not torch.isfinite(weight).all():
        raise ValueError("the weight has entries that are not finite")
    return weight.T if weight.shape[0] > weight.shape[1] else weight


def _add_upper(gram: Tensor, matrix: Tensor) -> None:
    """Add `A Aᵀ` to the upper half of a Gram: mirrored blocks are multiplied once."""
    middle = len(matrix) // 2
    if middle < LEAST_WIDTH:
        gram += matrix @ matrix.T
        return
    first, second = matrix[:middle], matrix[middle:]
    _add_upper(gram[:middle, :middle], first)
    _add_upper(gram[middle:, middle:], second)
    gram[:middle, middle:] += first @ second.T


def _with_tail(squares: Tensor, left_over: float) -> Spectrum:
    energies = squares.cpu().numpy()
    tail = np.cumsum(np.append(left_over, energies[::-1]))[::-1].copy()
    return Spectrum(values=np.sqrt(energies), tail=tail)
