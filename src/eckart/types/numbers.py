"""Weights, what is summed of their inputs, and what stands in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Structure = Literal["dense", "lowrank", "pivoted", "quantized+lowrank"]
"""What replaces a matrix: the matrix itself, `U V`, pivot rows with the other rows in terms of them, or the
matrix in few bits with `U V` beside it."""

CORRECTED: Final = "quantized+lowrank"
"""The structure that has more parameters than a dense weight, and fewer bytes."""

Quantize = Literal["int8", "int4"]
"""What weights are rounded to: whole numbers of so many bits, and scales."""


@dataclass(frozen=True)
class Target:
    """A weight that may be replaced. Shapes are those of `torch.nn.Linear`: `W (out, in)`."""

    name: str
    out_features: int
    in_features: int
    bias: bool


@dataclass
class Moment:
    """Sums over calibration tokens: of the inputs `x` of one space, or of the gradients `g` at one target.

    Attributes:
        tokens: how many tokens were added; padding never counts.
        second: `Σ x xᵀ`, `(in, in)`, or `Σ g gᵀ`, `(out, out)`, float64.
        absolute: `Σ |x|`, `(in,)`, float64.
        fisher: `Σ_windows Σ_in (∂loss/∂W_ij)²`, `(out,)`, float64: the row Fisher of FWSVD (Hsu et al.,
            ICLR 2022), of a window's loss as one number, as in the paper.
        windows: how many windows are in `fisher`.
    """

    tokens: int
    second: Tensor | None = None
    absolute: Tensor | None = None
    fisher: Tensor | None = None
    windows: int = 0


@dataclass(frozen=True)
class Spectrum:
    """The weighted singular values of one target and what they leave behind, in the metric's own unit.

    `k` of them were found: `min(out, in)`, or fewer where only some were asked for.

    Attributes:
        values: singular values of `Lᵀ W R`, descending, `(k,)`; where they were found approximately, the
            norms of `Lᵀ W R` along the basis found, which are no larger.
        tail: squared error at each rank from 0 to `k`, `(k + 1,)`. `tail[0]` is the whole energy, and
            `tail[r] = tail[r + 1] + values[r]²`, so `tail[k]` is 0 only where all were found.
    """

    values: np.ndarray
    tail: np.ndarray


@dataclass(frozen=True)
class Factors:
    """What stands for a weight: `Ŵ = U V`, or for `pivoted` its rows in another order.

    Attributes:
        structure: any but `dense`.
        U: `(out, r)`; for `pivoted` `(out - r, r)`, the rows that are not pivots in terms of those that are.
        V: `(r, in)`; for `pivoted` the pivot rows of `Ŵ` themselves.
        order: for `pivoted`, `(out,)` int32: output `i` is entry `order[i]` of `[V x; U V x]`.
        Q: for `quantized+lowrank`, `(out, in)`: the values of what is rounded; `Ŵ = Q + U V`.
    """

    structure: Structure
    U: Tensor
    V: Tensor
    order: Tensor | None = None
    Q: Tensor | None = None


@dataclass(frozen=True)
class Curve:
    """What a target costs and what it loses at each rank: all that an allocator sees.

    Attributes:
        costs: parameters at rank `0, 1, …, R`, where `R` is the largest rank that still saves some.
        dense: parameters of the weight as it is.
        errors: the error left at each of those ranks, `None` where nobody measured.
            Comparable between targets; the dense weight's error is 0.
    """

    costs: np.ndarray
    dense: int
    errors: np.ndarray | None = None
