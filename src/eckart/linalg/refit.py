"""Closed-form refit: the best weight for what a compressed model really reads.

With `x̂` what a target reads there and `y` what it should give, `E‖y − W' x̂‖²` is a quadratic in `W'`, so
the best of rank `r` is the best dense one, decomposed in the metric `E[x̂ x̂ᵀ]`: reduced-rank regression
(Izenman 1975; AA-SVD, arXiv 2604.02119), `decompose(regress(…), left, Side(second).shrunk(ridge))`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.linalg.metric import DTYPE, Side

SAFE_RIDGE = 1e-6
"""From here on Cholesky solves: no condition number exceeds `in / ridge`, so ten digits less at most."""


def regress(weight: Tensor, cross: Tensor, second: Tensor, ridge: float = 0.0) -> Tensor:
    """The `W' (out, in)` that minimises `E‖y − W' x̂‖² + ridge · mean(diag second) · ‖W' − W‖²_F`.

    Directions that `x̂` never took keep what `W` does there, so a singular `second` is no problem.

    Args:
        weight: `W (out, in)`, any dtype: where to stay near.
        cross: `E[y x̂ᵀ]`, `(out, in)`.
        second: `E[x̂ x̂ᵀ]`, `(in, in)`, in the same unit.
        ridge: how near, from 0; relative to the mean eigenvalue of `second`.

    Returns:
        `W'` in float64.

    Raises:
        ValueError: an entry is not finite, or the shapes do not fit.
    """
    out_features, in_features = weight.shape
    if cross.shape != weight.shape or second.shape != (in_features, in_features):
        raise ValueError(
            f"moments {tuple(cross.shape)} and {tuple(second.shape)} do not fit a weight "
            f"{out_features}x{in_features}"
        )
    W, cross, second = weight.to(DTYPE), cross.to(DTYPE), second.to(DTYPE)
    if not all(bool(torch.isfinite(matrix).all()) for matrix in (W, cross, second)):
        raise ValueError("the weight or a moment has entries that are not finite")
    damping = ridge * second.diagonal().mean()
    missing = cross - W @ second
    if ridge >= SAFE_RIDGE:
        L, failed = torch.linalg.cholesky_ex(second + damping * torch.eye(in_features).to(second))
        if not failed:
            return W + torch.cholesky_solve(missing.T, L).T
    values, vectors = torch.linalg.eigh(second)
    seen = values > in_features * torch.finfo(DTYPE).eps * values.abs().max()
    change: Tensor = (missing @ vectors) * torch.where(seen, 1 / (values + damping), 0.0) @ vectors.T
    return W + change


def refit_left(U: Tensor, V: Tensor, cross: Tensor, second: Tensor, ridge: float = 0.0) -> Tensor:
    """The `U' (out, r)` that minimises `E‖y − U' V x̂‖²`, with `V` kept (SVD-LLM's second step; MPIFA).

    `U' = E[y x̂ᵀ] Vᵀ (V E[x̂ x̂ᵀ] Vᵀ)⁻¹` where that can be inverted and `ridge` is 0; no output metric
    changes it.

    Args:
        U, V: factors `(out, r)` and `(r, in)`.
        cross, second, ridge: as for `regress`; the ridge keeps `U'` near `U`.

    Raises:
        ValueError: as `regress`.
    """
    V = V.to(DTYPE)
    return regress(U, cross.to(DTYPE) @ V.T, V @ second.to(DTYPE) @ V.T, ridge)


def follow(
    weight: Tensor, cross: Tensor, second: Tensor, tokens: int, ridge: float = 0.0
) -> tuple[Tensor, Side]:
    """The weight that does to `x̂` what `W` does to `x`, and the input side to decompose it in.

    Args:
        weight: `W (out, in)`.
        cross: `Σ x x̂ᵀ`, `(in, in)`.
        second: `Σ x̂ x̂ᵀ`, `(in, in)`.
        tokens: how many are in the sums.
        ridge: as for `regress`.

    Returns:
        `W'`, and a side in which a truncation of `W'` is the best of its rank, ridge and all.
    """
    second = second.to(DTYPE) / tokens
    target = weight.to(DTYPE) @ cross.to(DTYPE) / tokens
    return regress(weight, target, second, ridge), Side(second).shrunk(ridge)
