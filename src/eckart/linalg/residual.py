"""`W ≈ Q + U V`: a weight of few bits and, in the model's own dtype, what rounding it cost most.

CALDERA (Saha, Sagan, Srivastava, Goldsmith & Pilanci 2024, arXiv 2405.18886) alternates: `Q` is `W − U V`
rounded, `U V` the best of its rank for `W − Q` in the metric. We round each entry to the nearest, where the
paper rounds along the metric too (LDLQ), and keep the best round, so that no further one does harm.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.linalg.metric import DTYPE, Side, weighted_norm
from eckart.linalg.quantize import Quantized, quantize
from eckart.linalg.solve import decompose

ROUNDS = 5


def quantize_with_factors(
    weight: Tensor,
    rank: int,
    bits: int,
    dtype: torch.dtype,
    left: Side,
    right: Side,
    rounds: int = ROUNDS,
) -> tuple[Quantized, Tensor, Tensor, list[float]]:
    """Split `W (out, in)` into a rounded weight and factors.

    Args:
        rank: of the factors, from 0, where it is rounding alone.
        bits, dtype: as for `quantize`.
        left, right: the metric.
        rounds: of rounding and decomposing, from 1.

    Returns:
        `Q`, `U (out, rank)` and `V (rank, in)` in float64, and the error relative to `W` in the metric of the
        best of the rounds so far: first of rounding alone, then after each.

    Raises:
        ValueError: as `quantize` and `decompose`, or a rank out of range.
    """
    if not 0 <= rank <= min(weight.shape):
        raise ValueError(f"rank {rank} is not between 0 and {min(weight.shape)}, the weight's smaller side")
    W = weight.to(DTYPE)
    whole = weighted_norm(W, left, right) or 1.0
    best = quantize(W, bits, dtype), W.new_zeros(len(W), rank), W.new_zeros(rank, W.shape[1])
    errors = [weighted_norm(W - best[0].values(), left, right) / whole]
    U, V = best[1], best[2]
    for _ in range(rounds if rank else 0):
        Q = quantize(W - U @ V, bits, dtype)
        rest = W - Q.values()
        U, V = decompose(rest, left, right, rank=rank).factors(rest, rank)
        error = weighted_norm(rest - U @ V, left, right) / whole
        if error < errors[-1]:
            best = Q, U, V
        errors.append(min(error, errors[-1]))
    return *best, errors
