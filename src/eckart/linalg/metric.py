"""One side of a metric: how errors along the inputs (or the outputs) of a weight are weighed.

The metric of a weight is a pair of sides, left (outputs) and right (inputs), and the error of an
approximation is `‖Lᵀ (W − Ŵ) R‖_F`. Only the Grams `L Lᵀ` and `R Rᵀ` matter (METHODS: how `R` is
factored cannot change the optimum), so a side holds a Gram: none (identity), a diagonal, or a full
symmetric positive semidefinite matrix.
"""

from __future__ import annotations

from functools import cached_property
from math import sqrt

import torch
from torch import Tensor

from eckart.types import Moment

DTYPE = torch.float64
"""Everything is decided in float64: squaring a weight halves the digits of its small singular values."""


ROWS = 1024
"""Of a weight that are weighed at a time."""


class Side:
    """A symmetric positive semidefinite Gram.

    Args:
        gram: `None` for the identity, `(n,)` for a diagonal, `(n, n)` for a full Gram. It may be
            singular.
        unit: what it is to be taken times.
        own: whether it may be overwritten, where that saves a copy.

    Attributes:
        gram: it, scaled to a mean diagonal of 1, in float64: what everything below is computed with.
        scale: the mean diagonal that was taken off, so that `scale * gram` is what was given; 1 for the
            identity. It changes no optimum; errors and spectra are in a unit that it is part of.

    Raises:
        ValueError: an entry is not finite, the Gram is zero or has a negative diagonal, or it is neither a
            diagonal nor square.
    """

    def __init__(self, gram: Tensor | None = None, *, unit: float = 1.0, own: bool = False) -> None:
        if gram is not None:
            if gram.ndim != 1 and (gram.ndim != 2 or len(gram) != gram.shape[1]):
                raise ValueError(f"a metric is a diagonal or a square matrix, not of shape {(*gram.shape,)}")
            given = gram
            gram = gram.to(DTYPE)
            diagonal = gram if gram.ndim == 1 else gram.diagonal()
            # One entry that is not makes the sum so; to ask each would take the memory of another Gram.
            if not torch.isfinite(gram.sum()):
                raise ValueError("the metric has entries that are not finite")
            if (diagonal < 0).any() or not (diagonal > 0).any():
                raise ValueError("the metric must have a positive, nowhere negative diagonal")
            scale = diagonal.mean()
            # Grams are large, and one copy is enough.
            gram = gram.div_(scale) if own or gram is not given else gram / scale
        self.gram = gram
        self.scale = 1.0 if gram is None else float(scale) * unit
        self._floor = 0.0

    @classmethod
    def from_second_moment(cls, moment: Moment, own: bool = False) -> Side:
        """`E[x xᵀ]`, for either side.

        Of a target's inputs, on the right: the error is that of the outputs over the calibration tokens
        (SVD-LLM, DRONE). Of its gradients, on the left: with the other, the error is the loss to second
        order, its Fisher information as a Kronecker product (GFWSVD, arXiv 2505.17974).
        """
        assert moment.second is not None
        return cls(moment.second, unit=1 / moment.tokens, own=own)

    @classmethod
    def from_mean_absolute(cls, moment: Moment, power: float = 0.5) -> Side:
        """`diag(mean |x|)^(2·power)`, so that `R = diag(mean |x|)^power` (ASVD, arXiv 2312.05821, eq. 5)."""
        assert moment.absolute is not None
        return cls((moment.absolute / moment.tokens) ** (2 * power))

    @classmethod
    def from_fisher_rows(cls, moment: Moment) -> Side:
        """`diag(Σ_in E[(∂loss/∂W_ij)²])`, `(out,)`, for the left side (FWSVD, ICLR 2022, eq. 6).

        `E` is over windows. Rows that the loss does not depend on are 0 there: shrink it before use.
        """
        assert moment.fisher is not None
        return cls(moment.fisher / moment.windows)

    def shrunk(self, amount: float) -> Side:
        """This side plus `amount` times the mean of its diagonal times the identity.

        The identity stays as it is.
        """
        if self.gram is None:
            return self
        gram = self.gram.clone()
        (gram if gram.ndim == 1 else gram.diagonal()).add_(amount)
        more = Side(gram, own=True)
        # Of the shrunk Gram, scaled: no eigenvalue is smaller.
        more._floor = amount / more.scale
        more.scale *= self.scale
        return more

    @cached_property
    def _cholesky(self) -> Tensor | None:
        """`L`, lower triangular, where shrinking keeps the Gram clear of singular: many times faster."""
        assert self.gram is not None
        # No eigenvalue exceeds the trace, `n`.
        if self._floor <= len(self.gram) ** 2 * torch.finfo(DTYPE).eps:
            return None
        L, failed = torch.linalg.cholesky_ex(self.gram)
        return None if failed else L

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        assert self.gram is not None
        values, vectors = torch.linalg.eigh(self.gram)
        return values.clamp_min(0), vectors

    @property
    def size(self) -> int | None:
        """How many inputs (or outputs) it weighs; the identity weighs any number."""
        return None if self.gram is None else len(self.gram)

    @property
    def singular(self) -> bool:
        """Whether some direction weighs nothing, up to rounding, so that the side cannot be undone."""
        if self.gram is None:
            return False
        if self.gram.ndim == 2 and self._cholesky is not None:
            return False
        values = self.gram if self.gram.ndim == 1 else self._eigen[0]
        return bool(values.min() <= len(values) * torch.finfo(DTYPE).eps * values.max())

    def times_gram(self, matrix: Tensor) -> Tensor:
        """`matrix @ (R Rᵀ)`, the Gram as scaled, for a matrix with `n` columns."""
        if self.gram is None:
            return matrix
        return matrix * self.gram if self.gram.ndim == 1 else matrix @ self.gram

    def times_root(self, matrix: Tensor) -> Tensor:
        """`matrix @ R` for one `R` with `R Rᵀ` the Gram as scaled, for a matrix with `n` columns."""
        if self.gram is None:
            return matrix
        if self.gram.ndim == 1:
            return matrix * self.gram.sqrt()
        if self._cholesky is not None:
            return matrix @ self._cholesky
        values, vectors = self._eigen
        return (matrix @ vectors) * values.sqrt()

    def over_root(self, matrix: Tensor) -> Tensor:
        """`L⁻ᵀ matrix` for the `L` of `times_root`, for a matrix with `n` rows. The Gram is not singular."""
        if self.gram is None:
            return matrix
        if self.gram.ndim == 1:
            return matrix / self.gram.sqrt()[:, None]
        if self._cholesky is not None:
            solution: Tensor = torch.linalg.solve_triangular(self._cholesky.T, matrix, upper=True)
            return solution
        values, vectors = self._eigen
        return vectors @ (matrix / values.sqrt()[:, None])


def weighted_norm(matrix: Tensor, left: Side, right: Side) -> float:
    """`‖Lᵀ matrix R‖_F`, in the metric's own unit, as the values of a spectrum are."""
    weighted = left.times_root(matrix.to(DTYPE).T).T
    # Some rows at a time: all of them weighed would be as large as they are.
    energy = sum(float((right.times_gram(rows) * rows).sum()) for rows in weighted.split(ROWS))
    return sqrt(max(energy, 0.0)) * sqrt(left.scale) * sqrt(right.scale)


def relative_error(
    weight: Tensor, approximation: Tensor, left: Side, right: Side, whole: float | None = None
) -> float:
    """`‖Lᵀ (W − Ŵ) R‖_F / ‖Lᵀ W R‖_F`; 0 for a weight that the metric does not see.

    Args:
        whole: `‖Lᵀ W R‖_F`, where it is known, as from the spectrum.
    """
    whole = weighted_norm(weight, left, right) if whole is None else whole
    if not whole:
        return 0.0
    return weighted_norm(weight.to(DTYPE, copy=True).sub_(approximation), left, right) / whole
