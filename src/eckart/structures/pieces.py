"""What a structure is handed and what it gives: shapes, sites, parts, problems, fits, shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

Role = Literal["matrix", "index", "bias"]

INDEX_BYTES = 4
"""Of an entry of an index, int32."""


@dataclass(frozen=True)
class Shape:
    """The shape of a linear layer, `W (out, in)` and a bias or none; of an embedding `(tokens, width)`.

    Attributes:
        inner: where it writes or reads the inner channels of an MLP, on which side they are, `outputs` or
            `inputs`, and how many.
    """

    out_features: int
    in_features: int
    bias: bool = False
    inner: tuple[str, int] | None = None


class Target(Protocol):
    """A weight that may be replaced: the name of its module, and its shape."""

    @property
    def name(self) -> str: ...
    @property
    def out_features(self) -> int: ...
    @property
    def in_features(self) -> int: ...
    @property
    def bias(self) -> bool: ...


@dataclass(frozen=True)
class Site:
    """What a structure replaces in one piece: one target, or a group of them.

    Attributes:
        targets: in the model's order; the first gives the site its name.
        dense: whether it stays as it is, where none of its structures can take its place.
    """

    targets: tuple[Any, ...]
    dense: bool = False

    @property
    def name(self) -> str:
        name: str = self.targets[0].name
        return name


@dataclass(frozen=True)
class Part:
    """One tensor that stands for a weight, or for a piece of it.

    Attributes:
        shape: as stored.
        role: a `matrix` counts as parameters; an `index` costs bytes alone; biases are as large in all as
            the layer's own was.
        rounded: of a matrix, whether it is stored in few bits where the option has bits.
        shared: the name of what several targets of a site share; it is stored, and counts, once.
    """

    shape: tuple[int, ...]
    role: Role = "matrix"
    rounded: bool = True
    shared: str | None = None

    @property
    def entries(self) -> int:
        return prod(self.shape)


class Rounded(Protocol):
    """A matrix of whole numbers and scales."""

    @property
    def numbers(self) -> Tensor: ...
    @property
    def scales(self) -> Tensor: ...
    @property
    def bits(self) -> int: ...
    def values(self) -> Tensor: ...


@dataclass(frozen=True)
class Fitted:
    """What a structure gives for one weight.

    Attributes:
        tensors: by the names of its parts, without biases; matrices in float64, or rounded.
        error: `‖Lᵀ(W − Ŵ)R‖ / ‖LᵀWR‖` before they are cast; `None` where it has to be worked out.
    """

    tensors: Mapping[str, Tensor | Rounded]
    error: float | None = None


class Problem(Protocol):
    """One weight in its metric, `‖Lᵀ (W − Ŵ) R‖_F`, as a structure is given it.

    Attributes:
        weight: `W (out, in)`, any float dtype.
        dtype: that tensors are saved in.
        bits: that rounded matrices are stored in; `None` for none.
    """

    weight: Tensor
    dtype: torch.dtype
    bits: int | None

    @property
    def tail(self) -> Tensor:
        """Squared error of the best approximation of each rank, from 0, float64."""

    @property
    def gram(self) -> Tensor | None:
        """`R Rᵀ (in, in)`, its diagonal where that is all of it, `None` for the identity; float64, scaled."""

    @property
    def unit(self) -> float:
        """What `‖Lᵀ M R‖²` is with both Grams as scaled, times this, is it in the metric's own unit."""

    def times_left(self, matrix: Tensor) -> Tensor:
        """`L Lᵀ M`, the Gram as scaled."""

    def approximation(self, rank: int) -> tuple[Tensor, Tensor]:
        """The best of a rank: `U (out, r)` and `V (r, in)`, float64, half of each singular value in each."""

    def approximation_error(self, rank: int) -> float:
        """Its relative error."""

    def norm(self, matrix: Tensor) -> float:
        """`‖Lᵀ M R‖_F`."""

    def relative_error(self, approximation: Tensor) -> float:
        """`‖Lᵀ (W − Ŵ) R‖_F / ‖Lᵀ W R‖_F`; 0 for a weight that the metric does not see."""

    def weighed(self, matrix: Tensor) -> Tensor:
        """`L Lᵀ M R Rᵀ`, half the gradient of `‖Lᵀ M R‖²_F`, up to a constant factor."""

    def of(self, weight: Tensor) -> Problem:
        """Another weight in the same metric."""

    def round(self, matrix: Tensor) -> Rounded:
        """A matrix in `bits`, to the nearest."""

    def round_weight(self, weight: Tensor) -> Rounded:
        """A weight of this shape in `bits`, whose numbers make up for each other in the metric."""

    def round_product(self, left: Any, U: Tensor, V: Tensor) -> tuple[Rounded, Rounded, float]:
        """Both factors of `left(U) V` in `bits`, each fitted to what rounding left of the other."""


@dataclass
class Shard:
    """Some outputs of one module, of some of its inputs: `[first x, second (first x)]`, each in its place.

    Attributes:
        first: `(m, in)`, what reads the input.
        second: `(k, m)`, what reads `first x`; `None` where nothing does.
        order: `(out)`, the entry of `[first x, second (first x)]` that each output is; `None` where the
            outputs are `second (first x)` as it stands, or `first x` where there is no second.
        bias: `(out)`, to add to the outputs; `None` where the module has none, or holds it elsewhere.
    """

    first: Tensor
    second: Tensor | None = None
    order: Tensor | None = None
    bias: Tensor | None = None


def stored_once(parts: Mapping[str, Part]) -> list[Part]:
    """Parts without those that another one is stored for."""
    seen: set[str] = set()
    found = []
    for part in parts.values():
        if part.shared is not None:
            if part.shared in seen:
                continue
            seen.add(part.shared)
        found.append(part)
    return found


def values_of(fitted: Fitted) -> dict[str, Tensor]:
    """The tensors of a fit, rounded ones as what they stand for."""
    return {
        name: each if isinstance(each, Tensor) else each.values() for name, each in fitted.tensors.items()
    }
