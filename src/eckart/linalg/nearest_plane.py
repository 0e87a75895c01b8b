"""Whole numbers that make up for each other's rounding, in the metric of the inputs.

With `E = W − Ŵ` and `R Rᵀ = M Mᵀ`, `M` lower triangular, the error is `‖E M‖_F`, whose column `k` is
`E_k M_kk` and what the columns behind `k` leave there. From the last column to the first each is rounded so
that its own column of `E M` is as small as it can be: Babai's nearest plane, which is GPTQ's solve (Frantar
et al. 2022, arXiv 2210.17323) and LDLQ (QuIP, Chee et al. 2023, arXiv 2307.13304) with the columns in the
other order.

GPTQ stops there. Here single numbers are then made the best for what all others are (coordinate descent, as
QuantEase, Behdin et al. 2023, arXiv 2309.01885, from the nearest), and scales the best for the numbers, in
turns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eckart.linalg.metric import DTYPE, Side

DAMPING = 0.01
"""Of the mean diagonal, added to it as in GPTQ: directions that no token took are worth something too."""
TURNS = 2
"""Of all numbers and all scales, behind the nearest plane."""
COLUMNS = 64
"""That are rounded before the others hear of it, where a scale is of the whole row; else those of a group."""
LARGEST_ENTRIES = 2**24
"""Of what scales are solved for at a time."""


class NearestPlane:
    """Rounds matrices to multiples of scales, in the metric of their inputs.

    Matrices are `(out, in)`, scales `(out, groups)` and numbers `(out, in)`, all of float64.

    Args:
        right: with a full Gram, `(in, in)`.
        bits: of the numbers.
        width: columns that share a scale; the last group may be shorter.

    Raises:
        ValueError: the metric cannot be used.
    """

    def __init__(self, right: Side, bits: int, width: int) -> None:
        assert right.gram is not None
        self.bits, self.width = bits, width
        self.gram = right.gram.clone()
        self.gram.diagonal().add_(DAMPING)
        self.root, failed = torch.linalg.cholesky_ex(self.gram)
        if failed:
            raise ValueError("the metric is not positive definite")

    def energy(self, matrix: Tensor, scales: Tensor, numbers: Tensor) -> float:
        """`‖E M‖²_F`."""
        error = matrix - numbers * self._wide(scales, matrix)
        return float((error @ self.gram * error).sum())

    def numbers(self, matrix: Tensor, scales: Tensor) -> Tensor:
        """The nearest plane's."""
        own = self.root.diagonal()
        found, error = torch.empty_like(matrix), torch.zeros_like(matrix)
        for start, end in reversed(self._spans(matrix)):
            step = scales[:, start // self.width].contiguous()
            ahead = self.root[end:, start:end] / own[start:end]
            wanted = matrix[:, start:end] + error[:, end:] @ ahead
            for column in reversed(range(start, end)):
                behind = slice(column + 1, end)
                pulled = error[:, behind] @ (self.root[behind, column] / own[column])
                found[:, column] = self._clamped((wanted[:, column - start] + pulled) / step)
                error[:, column] = matrix[:, column] - found[:, column] * step
        return found

    def swept(self, matrix: Tensor, scales: Tensor, numbers: Tensor) -> Tensor:
        """Each number in turn made the best for what all others are: never a larger error."""
        own = self.gram.diagonal()
        numbers = numbers.clone()
        pull = (matrix - numbers * self._wide(scales, matrix)) @ self.gram
        for start, end in self._spans(matrix):
            step = scales[:, start // self.width].contiguous()
            here, moved = pull[:, start:end].clone(), matrix.new_zeros(len(matrix), end - start)
            for at, column in enumerate(range(start, end)):
                now = numbers[:, column] * step
                best = self._clamped((now + here[:, at] / own[column]) / step)
                moved[:, at] = best * step - now
                numbers[:, column] = best
                here -= torch.outer(moved[:, at], self.gram[column, start:end])
            pull -= moved @ self.gram[start:end]
        return numbers

    def scales(self, matrix: Tensor, scales: Tensor, numbers: Tensor) -> Tensor:
        """The best for these numbers; those that would be nothing stay as they are."""
        (out, inner), groups, width = matrix.shape, scales.shape[1], self.width
        found = torch.empty_like(scales)
        for rows in torch.arange(out, device=matrix.device).split(
            max(1, LARGEST_ENTRIES // (groups * inner))
        ):
            own = numbers[rows]
            weighed = own.new_zeros(len(rows), groups, groups * width)
            for group in range(groups):
                span = slice(group * width, min(inner, (group + 1) * width))
                weighed[:, group, :inner] = own[:, span] @ self.gram[span]
            padded = torch.nn.functional.pad(own, (0, groups * width - inner))
            system = (weighed * padded[:, None]).unflatten(2, (groups, width)).sum(3)
            wanted = (weighed[:, :, :inner] @ matrix[rows][:, :, None])[:, :, 0]
            # A group of zeros says nothing of its scale: a one on the diagonal makes it none.
            diagonal = system.diagonal(dim1=1, dim2=2)
            diagonal.add_((diagonal == 0).to(DTYPE))
            found[rows] = torch.linalg.solve(system, wanted)
        return torch.where(torch.isfinite(found) & (found != 0), found, scales)

    def _wide(self, scales: Tensor, matrix: Tensor) -> Tensor:
        """Scales of groups, for each column of a matrix."""
        return scales.repeat_interleave(self.width, dim=1)[:, : matrix.shape[1]]

    def _clamped(self, values: Tensor) -> Tensor:
        most = 2 ** (self.bits - 1) - 1
        return values.round().clamp(-most - 1, most)

    def _spans(self, matrix: Tensor) -> list[tuple[int, int]]:
        """Columns that are rounded together, first and last: all of one group."""
        columns = matrix.shape[1]
        width = COLUMNS if self.width >= columns else self.width
        return [(start, min(columns, start + width)) for start in range(0, columns, width)]
