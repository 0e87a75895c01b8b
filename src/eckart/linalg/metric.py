"""One side of a metric: how errors along the inputs (or the outputs) of a weight are weighed.

The metric of a weight is a pair of sides, left (outputs) and right (inputs), and the error of an
approximation is `‖Lᵀ (W − Ŵ) R‖_F`. Only the Grams `L Lᵀ` and `R Rᵀ` matter (METHODS: how `R` is
factored cannot change the optimum), so a side holds a Gram: none (identity), a diagonal, or a full
symmetric positive semidefinite matrix.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from eckart.types import Moment

DTYPE = torch.float64
"""Everything is decided in float64: squaring a weight halves the digits of its small singular values."""


class Side:
    """A symmetric positive semidefinite Gram, scaled to a mean diagonal of 1.

    Args:
        gram: `None` for the identity, `(n,)` for a diagonal, `(n, n)` for a full Gram. It may be
            singular. Its scale is dropped: it changes no optimum.

    Raises:
        ValueError: an entry is not finite, the Gram is zero or has a negative diagonal, or it is neither a
            diagonal nor square.
    """

    def __init__(self, gram: Tensor | None = None) -> None:
        if gram is not None:
            if gram.ndim != 1 and (gram.ndim != 2 or len(gram) != gram.shape[1]):
                raise ValueError(f"a metric is a diagonal or a square matrix, not of shape {(*gram.shape,)}")
            gram = gram.to(DTYPE)
            diagonal = gram if gram.ndim == 1 else gram.diagonal()
            if not torch.isfinite(gram).all():
                raise ValueError("the metric has entries that are not finite")
            if (diagonal < 0).any() or not (diagonal > 0).any():
                raise ValueError("the metric must have a positive, nowhere negative diagonal")
            gram = gram / diagonal.mean()
        self.gram = gram

    @classmethod
    def from_second_moment(cls, moment: Moment) -> Side:
        """`E[x xᵀ]`: the error is that of the outputs over the calibration tokens (SVD-LLM, DRONE)."""
        assert moment.second is not None
        return cls(moment.second / moment.tokens)

    @classmethod
    def from_mean_absolute(cls, moment: Moment, power: float = 0.5) -> Side:
        """`diag(mean |x|)^(2·power)`, so that `R = diag(mean |x|)^power` (ASVD, arXiv 2312.05821, eq. 5)."""
        assert moment.absolute is not None
        return cls((moment.absolute / moment.tokens) ** (2 * power))

    def shrunk(self, amount: float) -> Side:
        """This side plus `amount` times the identity: `amount` is relative to the mean of the diagonal."""
        if self.gram is None:
            return self
        if self.gram.ndim == 1:
            return Side(self.gram + amount)
        return Side(self.gram + amount * torch.eye(len(self.gram)).to(self.gram))

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
        values = self.gram if self.gram.ndim == 1 else self._eigen[0]
        return bool(values.min() <= len(values) * torch.finfo(DTYPE).eps * values.max())

    def times_gram(self, matrix: Tensor) -> Tensor:
        """`matrix @ (R Rᵀ)`, for a matrix with `n` columns."""
        if self.gram is None:
            return matrix
        return matrix * self.gram if self.gram.ndim == 1 else matrix @ self.gram

    def times_root(self, matrix: Tensor) -> Tensor:
        """`matrix @ R` for one `R` with `R Rᵀ` this Gram, for a matrix with `n` columns."""
        if self.gram is None:
            return matrix
        if self.gram.ndim == 1:
            return matrix * self.gram.sqrt()
        values, vectors = self._eigen
        return (matrix @ vectors) * values.sqrt()

    def over_root(self, matrix: Tensor) -> Tensor:
        """`L⁻ᵀ matrix` for the `L` of `times_root`, for a matrix with `n` rows. The Gram is not singular."""
        if self.gram is None:
            return matrix
        if self.gram.ndim == 1:
            return matrix / self.gram.sqrt()[:, None]
        values, vectors = self._eigen
        return vectors @ (matrix / values.sqrt()[:, None])


def weighted_norm(matrix: Tensor, left: Side, right: Side) -> float:
    """`‖Lᵀ matrix R‖_F`, in the metric's own (scaled) unit."""
    weighted = left.times_root(matrix.to(DTYPE).T).T
    return float((right.times_gram(weighted) * weighted).sum().clamp_min(0).sqrt())


def relative_error(weight: Tensor, approximation: Tensor, left: Side, right: Side) -> float:
    """`‖Lᵀ (W − Ŵ) R‖_F / ‖Lᵀ W R‖_F`; 0 for a weight that the metric does not see."""
    weight = weight.to(DTYPE)
    whole = weighted_norm(weight, left, right)
    return weighted_norm(weight - approximation, left, right) / whole if whole else 0.0
