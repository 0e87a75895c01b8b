"""One weight in its metric, with the best approximations of it: what a structure is fitted to."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from eckart.linalg.metric import DTYPE, Side, relative_error, weighted_norm
from eckart.linalg.quantize import Quantized, quantize, quantize_factors
from eckart.linalg.solve import Decomposition, decompose


class Problem:
    """`‖Lᵀ (W − Ŵ) R‖_F` for one weight.

    Args:
        weight: `W (out, in)`, any float dtype, on any device.
        left, right: the metric.
        dtype: that tensors are saved in; default the weight's.
        bits: that rounded matrices are stored in; `None` for none.
    """

    def __init__(
        self,
        weight: Tensor,
        left: Side,
        right: Side,
        dtype: torch.dtype | None = None,
        bits: int | None = None,
    ) -> None:
        self.weight, self._sides = weight, (left, right)
        self.dtype, self.bits = dtype or weight.dtype, bits
        self._solved: Decomposition | None = None

    def sides(self) -> tuple[Side, Side]:
        """The metric: `L`, `R`."""
        return self._sides

    def solve(self, rank: int | None) -> Decomposition:
        """Decompose the weight up to a rank; `None` for all."""
        return decompose(self.weight, *self.sides(), rank=rank)

    @property
    def left(self) -> Side:
        """`L`."""
        return self.sides()[0]

    @property
    def right(self) -> Side:
        """`R`."""
        return self.sides()[1]

    def decomposition(self, rank: int | None = None) -> Decomposition:
        """Of the weight, up to a rank at least; `None` for all.

        Raises:
            ValueError: as `decompose`.
        """
        least = min(self.weight.shape) if rank is None else rank
        if self._solved is None or self._solved.basis.shape[1] < least:
            self._solved = self.solve(rank)
        return self._solved

    @property
    def gram(self) -> Tensor | None:
        """`R Rᵀ (in, in)`, its diagonal where that is all of it, `None` for the identity; float64, scaled."""
        return self.right.gram

    @property
    def unit(self) -> float:
        """What `‖Lᵀ M R‖²` is with both Grams as scaled, times this, is it in the metric's own unit."""
        return self.left.scale * self.right.scale

    def times_left(self, matrix: Tensor) -> Tensor:
        """`L Lᵀ M`, the Gram as scaled."""
        return self.left.times_gram(matrix.T).T

    @property
    def tail(self) -> Tensor:
        """Squared error of the best approximation of each rank, from 0, float64."""
        return torch.from_numpy(self.decomposition().spectrum.tail)

    def approximation(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best of a rank: `U (out, r)` and `V (r, in)`, float64, half of each singular value in each."""
        return self.decomposition(rank).factors(self.weight, rank)

    def approximation_error(self, rank: int) -> float:
        """Its relative error."""
        return self.decomposition(rank).predicted_error(rank)

    def norm(self, matrix: Tensor) -> float:
        """`‖Lᵀ M R‖_F`, in the metric's own unit."""
        return weighted_norm(matrix, *self.sides())

    def relative_error(self, approximation: Tensor) -> float:
        """`‖Lᵀ (W − Ŵ) R‖_F / ‖Lᵀ W R‖_F`; 0 for a weight that the metric does not see."""
        # A decomposition that is there knows the whole.
        known = self._solved.norm if self._solved is not None else None
        return relative_error(self.weight, approximation, *self.sides(), known)

    def weighed(self, matrix: Tensor) -> Tensor:
        """`L Lᵀ M R Rᵀ`, the Grams as scaled: half the gradient of `‖Lᵀ M R‖²_F`, up to a constant factor."""
        left, right = self.sides()
        return left.times_gram(right.times_gram(matrix).T).T

    def of(self, weight: Tensor) -> Problem:
        """Another weight in the same metric."""
        return Problem(weight, *self.sides(), self.dtype, self.bits)

    def round(self, matrix: Tensor) -> Quantized:
        """A matrix in `bits`, to the nearest."""
        assert self.bits is not None
        return quantize(matrix, self.bits, self.dtype)

    def round_weight(self, weight: Tensor) -> Quantized:
        """A weight of this shape in `bits`, whose numbers make up for each other in the metric."""
        assert self.bits is not None
        return quantize(weight, self.bits, self.dtype, self.right)

    def rounding_energy(self) -> float:
        """About what rounding the weight itself to `bits` costs: `‖Lᵀ (W − Ŵ) R‖²_F`."""
        assert self.bits is not None
        draft = quantize(self.weight, self.bits, self.dtype, self.right, turns=0)
        return self.norm(self.weight.to(DTYPE) - draft.values()) ** 2

    def round_product(
        self, left: Callable[[Tensor], Tensor], U: Tensor, V: Tensor
    ) -> tuple[Quantized, Quantized, float]:
        """Both factors of `left(U) V` in `bits`, each fitted to what rounding left of the other.

        Returns:
            `U`, `V`, and the error relative to the product.
        """
        assert self.bits is not None
        return quantize_factors(U, V, self.bits, self.dtype, self.sides(), left)
