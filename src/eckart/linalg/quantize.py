"""Weights of whole numbers, as torchao has them, and pairs of factors of which each makes up for the other.

A matrix is `codes · scale`, one scale for each row (int8) or for 32 columns of a row (fewer bits). Rounding
`V` of `Ŵ = U V` leaves an error that the best `U` for the rounded `V` takes some of back, by least squares
in the metric, before it is rounded itself (LPLR, Saha, Srivastava & Pilanci 2023, arXiv 2310.11028); then the
same for `V`. Where inputs are weighed, numbers of one row make up for each other too (`nearest_plane`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from eckart.linalg.metric import DTYPE, Side, relative_error
from eckart.linalg.nearest_plane import TURNS, NearestPlane
from eckart.linalg.refit import regress

GROUP = 32
"""Columns that share a scale, of a matrix of fewer than 8 bits."""
SHRINKS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5)
"""Of the largest entry of a group: what its scale reaches. Clipping a few may round the others better."""
RIDGE = 1e-6
ENTRIES = 2**22
"""Of a matrix that are rounded at a time."""
PAIR_TURNS = 1
"""Of factors, which are rounded several times: one more takes a quarter of the time, and 1% off the error."""
ROUNDS = 2
"""Of rounding one factor and fitting the other; what does not help is not taken."""


@dataclass(frozen=True)
class Quantized:
    """A matrix of whole numbers and scales.

    Attributes:
        numbers: `(out, in)` int8, from `-2^(bits - 1)`.
        scales: `(out, 1)`, or for fewer than 8 bits `(out, ceil(in / 32))`, in the dtype that they are saved
            in; some are negative.
        bits: 8, 4, 3 or 2.
    """

    numbers: Tensor
    scales: Tensor
    bits: int

    def values(self) -> Tensor:
        """The matrix in float64."""
        width = self.numbers.shape[1] if self.bits == 8 else GROUP
        wide = self.scales.to(DTYPE).repeat_interleave(width, dim=1)[:, : self.numbers.shape[1]]
        return self.numbers.to(DTYPE) * wide


def quantize(
    matrix: Tensor, bits: int, dtype: torch.dtype, right: Side | None = None, turns: int = TURNS
) -> Quantized:
    """Round a matrix to few bits: to the nearest, or by a full Gram of its inputs so that it loses less.

    Args:
        matrix: `(out, in)`, any float dtype.
        dtype: of the scales; the numbers are the best for scales that are rounded to it.
        right: how errors along the inputs are weighed; `None`, the identity and a diagonal leave no number
            to make up for another.
        turns: of making numbers and scales better behind the nearest plane; 0 is enough to tell about what
            rounding loses.

    Raises:
        ValueError: an entry is not finite.
    """
    nearest = _to_nearest(matrix, bits, dtype)
    if right is None or right.gram is None or right.gram.ndim == 1:
        return nearest
    return _compensated(matrix, nearest, right, turns)


def _compensated(matrix: Tensor, nearest: Quantized, right: Side, turns: int) -> Quantized:
    """What was rounded to the nearest with less of an error in a metric, where that can be."""
    bits, dtype = nearest.bits, nearest.scales.dtype
    plane = NearestPlane(right, bits, matrix.shape[1] if bits == 8 else GROUP)
    # No row has to do with another: some at a time take little memory.
    rows = max(1, ENTRIES // matrix.shape[1])
    parts = [
        _rows_compensated(plane, *part, turns)
        for part in zip(
            matrix.split(rows), nearest.scales.split(rows), nearest.numbers.split(rows), strict=True
        )
    ]
    scales, numbers = (torch.cat(each) for each in zip(*parts, strict=True))
    return Quantized(numbers.to(torch.int8), scales.to(dtype), bits)


def _rows_compensated(
    plane: NearestPlane, rows: Tensor, scales: Tensor, nearest: Tensor, turns: int
) -> tuple[Tensor, Tensor]:
    """Scales and numbers of some rows, float64."""
    dtype = scales.dtype
    rows, scales, nearest = rows.to(DTYPE), scales.to(DTYPE), nearest.to(DTYPE)
    before = scales, nearest
    numbers = plane.numbers(rows, scales)
    for _ in range(turns):
        numbers = plane.swept(rows, scales, numbers)
        tried = _rounded(plane.scales(rows, scales, numbers), dtype).to(DTYPE)
        # Rounded to few digits, as a scale of a whole row is in bfloat16, the best need not be better.
        if plane.energy(rows, tried, numbers) < plane.energy(rows, scales, numbers):
            scales = tried
    better = plane.energy(rows, scales, numbers) < plane.energy(rows, *before)
    return (scales, numbers) if better else before


def _to_nearest(matrix: Tensor, bits: int, dtype: torch.dtype) -> Quantized:
    if not torch.isfinite(matrix).all():
        raise ValueError("a matrix with entries that are not finite cannot be rounded")
    matrix = matrix.float()
    if bits == 8:
        scales = _rounded(matrix.abs().amax(1, keepdim=True) / 127, dtype)
        return Quantized(_numbers(matrix, scales, matrix.shape[1], bits), scales.to(dtype), bits)
    padded = functional.pad(matrix, (0, -matrix.shape[1] % GROUP))
    groups = padded.unflatten(1, (-1, GROUP))
    largest = groups.gather(2, groups.abs().argmax(2, keepdim=True))[..., 0]
    most = 2 ** (bits - 1) - 1
    best = torch.full_like(largest, torch.inf)
    chosen = largest
    # There is one number more below 0 than above it, and a negative scale turns them round.
    for reach, shrink in product((largest.abs() / most, -largest / (most + 1)), SHRINKS):
        scales = _rounded(reach * shrink, dtype)
        numbers = _numbers(padded, scales, GROUP, bits).unflatten(1, (-1, GROUP))
        error = (groups - numbers * scales[..., None]).square().sum(2)
        chosen = torch.where(error < best, scales, chosen)
        best = torch.minimum(error, best)
    numbers = _numbers(padded, chosen, GROUP, bits)[:, : matrix.shape[1]].contiguous()
    return Quantized(numbers, chosen.to(dtype), bits)


def quantize_factors(
    U: Tensor,
    V: Tensor,
    bits: int,
    dtype: torch.dtype,
    metric: tuple[Side, Side],
    expand: Callable[[Tensor], Tensor] = lambda U: U,
) -> tuple[Quantized, Quantized, float]:
    """Round both factors of a product `A V`, each fitted to what rounding left of the other.

    Args:
        U: `(n, r)`, of which `A` is made.
        V: `(r, in)`.
        bits, dtype: as for `quantize`.
        metric: left and right, in which they are fitted and the error is taken.
        expand: `A (out, r)` of any `U`; by default itself. Rows that are not rows of `U` do not depend on it.

    Returns:
        `U`, `V`, and the error of rounding, relative to the product: never more than that of rounding each
        by itself.
    """
    left, right = metric
    U, V = U.to(DTYPE), V.to(DTYPE)
    whole = expand(U)
    size = sqrt(_energy(whole, V, left, right))

    def error(one: Quantized, other: Quantized) -> float:
        ends = torch.cat([whole, -expand(one.values())], dim=1)
        return sqrt(_energy(ends, torch.cat([V, other.values()]), left, right))

    between = _weighing(right.times_gram(V) @ V.T)
    # Each made up for by itself may be further off together than each to the nearest.
    starts = [
        (quantize(U, bits, dtype), quantize(V, bits, dtype)),
        (quantize(U, bits, dtype, between, PAIR_TURNS), quantize(V, bits, dtype, right, PAIR_TURNS)),
    ]
    best, (Uq, Vq) = min(((error(*pair), pair) for pair in starts), key=lambda each: each[0])
    for _ in range(ROUNDS):
        before = best
        v = Vq.values()
        weighed = right.times_gram(v).T
        second = v @ weighed
        wanted = regress(U, U @ (V @ weighed), second, RIDGE)
        fitted = quantize(wanted, bits, dtype, _weighing(second), PAIR_TURNS)
        if (found := error(fitted, Vq)) < best:
            Uq, best = fitted, found
        u = expand(Uq.values())
        weighed = left.times_gram(u.T).T
        fitted = quantize(
            regress(V.T, V.T @ (whole.T @ weighed), u.T @ weighed, RIDGE).T, bits, dtype, right, PAIR_TURNS
        )
        if (found := error(Uq, fitted)) < best:
            Vq, best = fitted, found
        if best == before:
            break
    return Uq, Vq, best / size if size else 0.0


def quantize_weight(
    weight: Tensor, bits: int, dtype: torch.dtype, left: Side, right: Side
) -> tuple[Quantized, float]:
    """Round a dense weight; the error relative to it in the metric."""
    tried = [quantize(weight, bits, dtype, right)]
    if left.gram is not None and right.gram is not None:
        # What makes up for errors along the inputs knows nothing of the outputs.
        tried.append(quantize(weight, bits, dtype))
    found = [(relative_error(weight, each.values(), left, right), each) for each in tried]
    error, rounded = min(found, key=lambda each: each[0])
    return rounded, error


def _weighing(gram: Tensor) -> Side | None:
    """A side of a Gram; none where it weighs nothing."""
    return Side(gram) if bool((gram.diagonal() > 0).any()) else None


def _energy(A: Tensor, B: Tensor, left: Side, right: Side) -> float:
    """`‖Lᵀ A B R‖²_F`, the metric as scaled, through the small side."""
    outer = left.times_gram(A.T) @ A
    inner = right.times_gram(B) @ B.T
    return max(float((outer * inner).sum()), 0.0)


def _rounded(scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as they are saved, in float32; none is zero."""
    tiny = torch.finfo(dtype).smallest_normal
    saved = scales.to(dtype)
    return torch.where(saved.abs() < tiny, torch.full_like(saved, tiny), saved).float()


def _numbers(matrix: Tensor, scales: Tensor, width: int, bits: int) -> Tensor:
    """The nearest multiples of scales, each of so many columns, as `torchao.quantization` rounds."""
    most = 2 ** (bits - 1) - 1
    wide = scales.repeat_interleave(width, dim=1)[:, : matrix.shape[1]]
    return (matrix * (1 / wide)).round().clamp(-most - 1, most).to(torch.int8)
