"""Weights, what is summed of their inputs, and what could stand in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Quantize = Literal["int8", "int4", "int3", "int2"]
"""What weights are rounded to: whole numbers of so many bits, and scales."""


@dataclass(frozen=True)
class Target:
    """A weight that may be replaced. Shapes are those of `torch.nn.Linear`: `W (out, in)`.

    Attributes:
        inner: where it writes or reads the inner channels of an MLP, on which side they are, `outputs` or
            `inputs`, and how many.
        group: the name of what reads those channels.
    """

    name: str
    out_features: int
    in_features: int
    bias: bool
    inner: tuple[str, int] | None = None
    group: str | None = None


@dataclass
class Moment:
    """Sums over calibration tokens: of the inputs `x` of one space, or of the gradients `g` at one target.

    Attributes:
        tokens: how many tokens were added; padding never counts.
        second: `Σ x xᵀ`, `(in, in)`, or `Σ g gᵀ`, `(out, out)`, float64; above 512 float32.
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


class Option(BaseModel):
    """One thing that could stand at a site: a structure, its size, and the bits of its matrices.

    Attributes:
        structure: its name; `dense` for the weight itself.
        size: for low-rank structures the rank; `None` for dense. Of a merged weight the size that it had.
        bits: that these are stored in; `None` where its matrices are floats.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    structure: str
    size: int | None = None
    bits: Quantize | None = None


@dataclass(frozen=True)
class Curve:
    """What a site costs and what it loses with each of its options: all that an allocator sees.

    Options are in the order of their costs. Position 0 is nothing at all, which no one may pick; after the
    last comes the dense weight as it is, `None` in a pick.

    Attributes:
        costs: parameters, or bytes, at each position `0, 1, …, n`: of those that are below `dense`.
        dense: of the weight as it is.
        errors: the error left at each of those positions, `None` where nobody measured.
            Comparable between sites; the dense weight's error is 0.
        options: those at positions `1, …, n`.
        mixed: whether they are of several structures or bits, so that a position is no size.
    """

    costs: np.ndarray
    dense: int
    errors: np.ndarray | None = None
    options: tuple[Option, ...] = ()
    mixed: bool = False
