"""Low-rank: a weight as the product of two thin factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.structures.factored import FactoredEmbedding, FactoredLinear, FactoredStructure
from eckart.structures.pieces import Fitted, Part, Problem, Shard
from eckart.structures.registry import add


class LowRankLinear(FactoredLinear):
    """`y = U (V x) + b`, with `V (rank, in)` and `U (out, rank)` two ordinary linear layers.

    It holds `rank · (in + out)` parameters and the bias.
    """

    structure = "lowrank"

    def build(self, bias: bool, options: dict[str, Any]) -> None:
        self.V = nn.Linear(self.in_features, self.rank, bias=False, **options)
        self.U = nn.Linear(self.rank, self.out_features, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.U(self._inner(x))
        return y

    @classmethod
    def from_linear(cls, linear: nn.Linear, rank: int) -> LowRankLinear:
        """The closest layer of this rank to a dense one: truncated SVD (Eckart-Young 1936).

        Args:
            linear: the layer to replace, of any float dtype, on any device. It is left as it is.
            rank: from 1 to `min(in, out)`. Below `in·out / (in + out)` it saves parameters.

        Raises:
            ValueError: a rank out of range, or weights that are not finite.
        """
        largest = min(linear.in_features, linear.out_features)
        if not 1 <= rank <= largest:
            raise ValueError(f"rank {rank} is not between 1 and {largest}, the smaller side of the layer")
        if not torch.isfinite(linear.weight).all():
            raise ValueError("the layer's weight has entries that are not finite")
        weight = linear.weight.detach()
        layer = cls(
            linear.in_features,
            linear.out_features,
            rank,
            bias=linear.bias is not None,
            device=weight.device,
            dtype=weight.dtype,
        )
        left, values, right = torch.linalg.svd(weight.double(), full_matrices=False)
        # A singular vector is known up to its sign: the largest entry of each left one is positive.
        signs = left.gather(0, left.abs().argmax(0, keepdim=True)).sign()[0, :rank]
        root = values[:rank].sqrt()
        with torch.no_grad():
            layer.U.weight.copy_(left[:, :rank] * (signs * root))
            layer.V.weight.copy_((signs * root)[:, None] * right[:rank])
            if linear.bias is not None:
                layer.U.bias.copy_(linear.bias)
        return layer


class LowRankEmbedding(FactoredEmbedding):
    """`U[ids] V`, with `U (tokens, rank)` an embedding and `V (rank, width)` the weight of a linear layer.

    Args:
        padding_idx: a token that learns nothing.
        num_embeddings, embedding_dim, rank, scale: as of `StructuredEmbedding`.
    """

    structure = "lowrank"

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        scale: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(num_embeddings, embedding_dim, rank, scale)
        self.V = nn.Linear(embedding_dim, rank, bias=False, **options)
        self.U = nn.Embedding(num_embeddings, rank, padding_idx, **options)

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.U(ids) @ self.V.weight
        return self.scaled(rows)


class LowRank(FactoredStructure):
    """`Ŵ = U V` (Eckart-Young 1936): `r(out + in)` parameters, break-even at half a square matrix's width."""

    name = "lowrank"
    module = LowRankLinear
    supports: ClassVar[frozenset[str]] = frozenset({"training", "embedding", "sharding"})
    columns: ClassVar[Mapping[str, str]] = {"U": "split"}
    rows: ClassVar[Mapping[str, str]] = {"V": "split"}

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        found = {"V.weight": Part((size, shape.in_features)), "U.weight": Part((shape.out_features, size))}
        return found | ({"U.bias": Part((shape.out_features,), "bias")} if shape.bias else {})

    def solve(self, problem: Problem, size: int) -> Fitted:
        U, V = problem.approximation(size)
        return Fitted({"U.weight": U, "V.weight": V}, problem.approximation_error(size))

    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        bias = tensors.get("U.bias")
        weight = tensors["U.weight"].double() @ tensors["V.weight"].double()
        return weight, None if bias is None else bias.double()

    def biases(self, tensors: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
        return {"U.bias": bias}

    def left(self, U: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        return U

    def embedding(self, old: nn.Embedding, size: int, scale: float, device: Any) -> nn.Module:
        options = {"device": device, "dtype": old.weight.dtype}
        return LowRankEmbedding(
            old.num_embeddings, old.embedding_dim, size, old.padding_idx, scale, **options
        )

    def entry(self, size: int) -> int:
        return size

    def shard(self, tensors: Mapping[str, Tensor], rows: Tensor, columns: slice) -> Shard:
        bias = tensors.get("U.bias")
        return Shard(
            tensors["V.weight"][:, columns],
            tensors["U.weight"][rows],
            bias=None if bias is None else bias[rows],
        )


add(LowRank())
