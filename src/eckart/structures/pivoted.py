"""Pivoted: some rows of a low-rank weight, and the others in terms of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.structures.factored import FactoredEmbedding, FactoredLinear, FactoredStructure
from eckart.structures.modules import rows_of
from eckart.structures.pieces import Fitted, Part, Problem, Shard
from eckart.structures.registry import add

FEW = 16
"""Rows of activations below which starting another kernel takes longer than passing over them again."""
GROWTH = 2.0
"""Largest entry, in absolute value, that the coefficients of a pivoted weight may keep."""
MAX_ROUNDS = 10
"""Of swapping and looking again. One is the rule; the bound is against rounding that never settles."""
DEPENDENT = 1e-8
"""A column is taken to depend on others where they leave less than this share of it."""


class PivotedLinear(FactoredLinear):
    """`V x` gives `rank` of the outputs themselves, `U (V x)` the others; `order` puts them in place.

    It holds `rank · (in + out − rank)` parameters: the degrees of freedom of a rank-`rank` matrix. A
    bias sits in both layers: what `U` adds to `V`'s is already taken off in its own.
    """

    structure = "pivoted"
    order: Tensor

    def build(self, bias: bool, options: dict[str, Any]) -> None:
        self.V = nn.Linear(self.in_features, self.rank, bias=bias, **options)
        self.U = nn.Linear(self.rank, self.out_features - self.rank, bias=bias, **options)
        order = torch.arange(self.out_features, dtype=torch.int32, device=options["device"])
        self.register_buffer("order", order)

    def forward(self, x: Tensor) -> Tensor:
        pivots = self._inner(x)
        others = self.U(pivots)
        # Compilers make one kernel of this; elsewhere it is two passes over the outputs.
        if torch.compiler.is_compiling() or rows_of(pivots) < FEW:
            return torch.cat([pivots, others], dim=-1).index_select(-1, self.order)
        places = self.order.argsort()
        y = pivots.new_empty(*pivots.shape[:-1], self.out_features)
        y.scatter_(-1, places[: self.rank].expand_as(pivots), pivots)
        return y.scatter_(-1, places[self.rank :].expand_as(others), others)


class PivotedEmbedding(FactoredEmbedding):
    """`rank` tokens have a row of `V` for their own, the others `U[…] V`; `order` says which is which."""

    structure = "pivoted"
    order: Tensor

    def __init__(
        self, num_embeddings: int, embedding_dim: int, rank: int, scale: float = 1.0, **options: Any
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, rank, scale)
        self.V = nn.Linear(embedding_dim, rank, bias=False, **options)
        self.U = nn.Embedding(num_embeddings - rank, rank, **options)
        order = torch.arange(num_embeddings, dtype=torch.int32, device=options.get("device"))
        self.register_buffer("order", order)

    def forward(self, ids: Tensor) -> Tensor:
        places = self.order[ids].long()
        pivots = nn.functional.embedding(places.clamp(max=self.rank - 1), self.V.weight)
        others = self.U((places - self.rank).clamp(min=0)) @ self.V.weight
        return self.scaled(torch.where((places < self.rank)[..., None], pivots, others))


class Pivoted(FactoredStructure):
    """`r` rows of `Ŵ`, and the others in terms of them: `r(out + in − r)` parameters.

    PIFA (ICML 2025) and PivGa (arXiv 2512.03062) choose the rows by QR with column pivoting. Here: LU with
    partial pivoting, then swaps until no coefficient exceeds `GROWTH` (maxvol: Goreinov et al. 2010). It runs
    in torch on any device, and coefficients near 1 round best in bfloat16. Output `i` is entry `order[i]` of
    `[V x; U V x]`.
    """

    name = "pivoted"
    module = PivotedLinear
    supports: ClassVar[frozenset[str]] = frozenset({"training", "embedding", "sharding"})
    columns: ClassVar[Mapping[str, str]] = {"U": "gathered"}
    rows: ClassVar[Mapping[str, str]] = {"V": "split"}

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        others = shape.out_features - size
        found = {
            "V.weight": Part((size, shape.in_features)),
            "U.weight": Part((others, size)),
            "order": Part((shape.out_features,), "index"),
        }
        return found | (
            {"V.bias": Part((size,), "bias"), "U.bias": Part((others,), "bias")} if shape.bias else {}
        )

    def solve(self, problem: Problem, size: int) -> Fitted:
        return Fitted(pivoted(*problem.approximation(size)), problem.approximation_error(size))

    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        U, V, order = tensors["U.weight"].double(), tensors["V.weight"].double(), tensors["order"].long()
        bias = None
        if "U.bias" in tensors:
            kept = tensors["V.bias"].double()
            bias = torch.cat([kept, U @ kept + tensors["U.bias"].double()])[order]
        return torch.cat([V, U @ V])[order], bias

    def biases(self, tensors: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
        ordered = torch.empty_like(bias)
        ordered[tensors["order"].long()] = bias
        rank = len(tensors["V.weight"])
        carried = tensors["U.weight"].double() @ ordered[:rank].double()
        return {"V.bias": ordered[:rank], "U.bias": ordered[rank:].double() - carried}

    def left(self, U: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([torch.eye(U.shape[1]).to(U), U])[tensors["order"].long()]

    def embedding(self, old: nn.Embedding, size: int, scale: float, device: Any) -> nn.Module:
        options = {"device": device, "dtype": old.weight.dtype}
        return PivotedEmbedding(old.num_embeddings, old.embedding_dim, size, scale, **options)

    def shard(self, tensors: Mapping[str, Tensor], rows: Tensor, columns: slice) -> Shard:
        """A row is a pivot, and one of `V`'s, or it is one of `U`'s: those of the others' are left out.

        What `U` carries over from `V`'s bias is put back, so that one vector is added at the end.
        """
        V, U, order = tensors["V.weight"], tensors["U.weight"], tensors["order"].long()
        if not torch.equal(order.sort().values, torch.arange(len(order), device=order.device)):
            raise ValueError("order is not a permutation")
        rank = len(V)
        places = order[rows]
        is_pivot = places < rank
        second = U[places[~is_pivot] - rank]
        own = places.clone()
        own[~is_pivot] = rank + torch.arange(second.shape[0], device=places.device)
        bias = None
        if "V.bias" in tensors:
            pivots, others = tensors["V.bias"].double(), tensors["U.bias"].double()
            bias = torch.cat([pivots, others + U.double() @ pivots])[places].to(tensors["V.bias"].dtype)
        return Shard(V[:, columns], second, own, bias)


def pivoted(U: Tensor, V: Tensor) -> dict[str, Tensor]:
    """`Ŵ = U V` as `r` of its rows and the coefficients of the others, losslessly.

    Args:
        U, V: `(out, r)` and `(r, in)`, `r` below `out`.
    """
    out_features, rank = U.shape
    assert rank < out_features
    basis = U
    pivots, independent = _row_order(basis)
    if not independent:
        # The weight's own rank is lower than `rank`. Any basis around the columns of `U` serves as well.
        basis = torch.linalg.qr(U).Q
        pivots, _ = _row_order(basis)
    coefficients = _coefficients(basis, pivots, rank)
    for _ in range(MAX_ROUNDS):
        if not _swap(coefficients, pivots):
            break
        # From coefficients far beyond `GROWTH` the updates lose digits: look again at exact ones.
        coefficients = _coefficients(basis, pivots, rank)
    kept, columns = pivots[:rank].sort()
    rest, rows = pivots[rank:].sort()
    order = torch.empty_like(pivots)
    order[torch.cat([kept, rest])] = torch.arange(out_features, device=pivots.device)
    return {
        "U.weight": coefficients[rows][:, columns],
        "V.weight": U[kept] @ V,
        "order": order.to(torch.int32),
    }


def _swap(coefficients: Tensor, pivots: Tensor) -> int:
    """Swap rows in and out of the kept ones, in place, until no coefficient exceeds `GROWTH`.

    Returns:
        How many that took. Each multiplies the volume of the kept rows by more than `GROWTH`, so it ends.
    """
    rank = coefficients.shape[1]
    swaps = 0
    while True:
        row, column = divmod(int(coefficients.abs().argmax()), rank)
        pivot = coefficients[row, column].clone()
        if not pivot.abs() > GROWTH:
            return swaps
        others = coefficients[row].clone()
        replaced = coefficients[:, column] / pivot
        coefficients -= torch.outer(replaced, others)
        coefficients[:, column] = replaced
        coefficients[row] = -others / pivot
        coefficients[row, column] = 1 / pivot
        pivots[[column, rank + row]] = pivots[[rank + row, column]]
        swaps += 1


def _row_order(tall: Tensor) -> tuple[Tensor, bool]:
    """Rows of `tall (n, r)` in the order that LU with partial pivoting takes them.

    Returns:
        The order, and whether each column is independent of those before it, clear of rounding.
    """
    LU, swaps, _ = torch.linalg.lu_factor_ex(tall)
    order = list(range(len(tall)))
    for row, other in enumerate((swaps - 1).tolist()):
        order[row], order[other] = order[other], order[row]
    lengths = tall.norm(dim=0).clamp_min(torch.finfo(tall.dtype).tiny)
    independent = LU.diagonal().abs() > DEPENDENT * lengths
    return torch.tensor(order, device=tall.device), bool(independent.all())


def _coefficients(tall: Tensor, pivots: Tensor, rank: int) -> Tensor:
    """Rows `pivots[rank:]` in terms of rows `pivots[:rank]`."""
    coefficients: Tensor = torch.linalg.solve(tall[pivots[:rank]], tall[pivots[rank:]], left=False)
    return coefficients


add(Pivoted())
