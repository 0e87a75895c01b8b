"""The solver: the best approximation of every rank at once, for any metric, with no input inverse.

Minimise `‖Lᵀ (W − Ŵ) R‖_F` over rank ≤ r. With `M = Lᵀ W R = P Σ Qᵀ` the optimum is
`Ŵ = L⁻ᵀ P_r P_rᵀ Lᵀ W` (Eckart-Young-Mirsky in the metric), whose squared error is the spectral tail
`Σ_{i>r} σ_i²`. It asks for `P` only: one symmetric eigenproblem on the smaller side of `W`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eckart.linalg.metric import DTYPE, Side
from eckart.types import Spectrum

TIE_BREAK = 1e-10
"""Weight of the identity beside the input metric. Directions that the data never showed cost nothing
in the metric alone; this orders them by plain energy, so that full rank gives `W` back exactly."""


@dataclass(frozen=True)
class Decomposition:
    """One weight in one metric, ready to be cut at any rank.

    Attributes:
        basis: `P`, orthonormal columns, `(out, k)`; the best left subspaces, nested.
        left: the output side of the metric.
        spectrum: the singular values of `M` and their tail.
    """

    basis: Tensor
    left: Side
    spectrum: Spectrum

    def truncated(self, rank: int) -> Decomposition:
        """The same without what lies beyond `rank`, for keeping many of them in memory."""
        return Decomposition(self.basis[:, :rank].clone(), self.left, self.spectrum)

    def predicted_error(self, rank: int) -> float:
        """The relative error at `rank` that the spectrum promises, as `relative_error` measures it."""
        tail = self.spectrum.tail
        return float(np.sqrt(tail[rank] / tail[0])) if tail[0] else 0.0

    def factors(self, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """`U (out, rank)` and `V (rank, in)` in float64, column `i` of `U` as long as row `i` of `V`.

        Args:
            weight: the `W (out, in)` that was decomposed.
            rank: from 1 to the number of basis columns.
        """
        assert 1 <= rank <= self.basis.shape[1]
        P = self.basis[:, :rank].to(DTYPE)
        U = self.left.over_root(P)
        V = P.T @ self.left.times_root(weight.to(DTYPE).T).T
        # A balanced pair rounds best: half of each singular value on either side.
        tiny = torch.finfo(DTYPE).tiny
        balance = (V.norm(dim=1).clamp_min(tiny) / U.norm(dim=0).clamp_min(tiny)).sqrt()
        return U * balance, V / balance[:, None]


def decompose(weight: Tensor, left: Side, right: Side) -> Decomposition:
    """Decompose `W (out, in)`, any dtype, in the metric `(left, right)`.

    Returns:
        A basis of `min(out, in)` columns, largest entry of each positive, and the spectrum.

    Raises:
        ValueError: the weight has entries that are not finite, a side is of another size than the weight,
            or the output side is singular.
    """
    out_features, in_features = weight.shape
    for side, size in ((left, out_features), (right, in_features)):
        if side.size not in (None, size):
            raise ValueError(
                f"a metric of size {side.size} does not fit a weight {out_features}x{in_features}"
            )
    if not torch.isfinite(weight).all():
        raise ValueError("the weight has entries that are not finite")
    if left.singular:
        raise ValueError("a singular output metric cannot be undone: shrink it first")
    W = left.times_root(weight.to(DTYPE).T).T
    tall = out_features > in_features
    if tall:
        # Nothing outside the columns of `W` helps: solve in an orthonormal basis of them.
        span, W = torch.linalg.qr(W)
    weighted = (right.times_gram(W) + TIE_BREAK * W) / (1 + TIE_BREAK)
    energies, basis = torch.linalg.eigh(weighted @ W.T)
    basis = basis.flip(1)
    if tall:
        basis = span @ basis
    largest = basis.abs().argmax(dim=0, keepdim=True)
    basis = basis * basis.gather(0, largest).sign()
    return Decomposition(basis, left, _spectrum(energies.flip(0)))


def _spectrum(energies: Tensor) -> Spectrum:
    squares = energies.clamp_min(0).cpu().numpy()
    tail = np.append(np.cumsum(squares[::-1])[::-1], 0.0)
    return Spectrum(values=np.sqrt(squares), tail=tail)
