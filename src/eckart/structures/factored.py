"""Two factors, `U (V x)`: what the structures made of a product have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eckart.structures.contract import LinearStructure
from eckart.structures.modules import StructuredEmbedding, StructuredLinear, rows_of
from eckart.structures.pieces import Problem, Rounded, Site


class FactoredLinear(StructuredLinear):
    """Two ordinary linear layers, `V (rank, in)` and `U`, in the place of one.

    Args:
        in_features, out_features, bias, device, dtype: as of `nn.Linear`.
        rank: of the factors.
    """

    U: nn.Linear
    V: nn.Linear
    shared: Callable[[FactoredLinear, Tensor], Tensor] | None = None
    """`V x` from a product that other modules share, where `eckart.fuse` made one."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, rank)
        self.build(bias, {"device": device, "dtype": dtype})

    @abstractmethod
    def build(self, bias: bool, options: dict[str, Any]) -> None:
        """Add the linear layers.

        Args:
            options: device and dtype.
        """

    @property
    def rank(self) -> int:
        """Of the factors."""
        return self.size

    @property
    def weight(self) -> Tensor:
        """A stand-in with the dense weight's shape and dtype and no values."""
        return torch.empty(self.out_features, self.in_features, dtype=self.V.weight.dtype, device="meta")

    @property
    def bias(self) -> Tensor | None:
        """The bias of the last step, if any: for the models that ask whether there is one."""
        bias: Tensor | None = self.U.bias
        return bias

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}"

    def train(self, mode: bool = True) -> FactoredLinear:
        """As of every module; what is trained lies in memory as other weights do, which FSDP insists on."""
        if mode and type(self.U) is nn.Linear and type(self.U.weight.data) is Tensor:
            self.U.weight.data = self.U.weight.data.contiguous()
        super().train(mode)
        return self

    def _inner(self, x: Tensor) -> Tensor:
        """`V x`, after what is done once when the first token is written by itself."""
        self._keep_by_columns(x)
        y: Tensor = self.V(x) if self.shared is None else self.shared(self, x)
        return y

    def _keep_by_columns(self, x: Tensor) -> None:
        """Turn `U` round in memory once it writes a token at a time in float32 on a CPU.

        Its rows are as short as the rank, and such a product takes up to one and a half times as long by rows
        (two cores, ranks 256 to 700). With more than one row of `x`, or in bfloat16, it gains nothing.
        """
        if torch.compiler.is_compiling() or rows_of(x) != 1 or torch.is_grad_enabled():
            return
        if type(self.U) is not nn.Linear or type(self.U.weight.data) is not Tensor:
            return
        weight = self.U.weight.data
        if weight.is_contiguous() and weight.dtype == torch.float32 and weight.device.type == "cpu":
            self.U.weight.data = weight.t().contiguous().t()


class FactoredEmbedding(StructuredEmbedding):
    """Factors of an embedding: `U` is an embedding, `V (rank, width)` the weight of a linear layer."""

    U: nn.Embedding
    V: nn.Linear

    @property
    def rank(self) -> int:
        """Of the factors."""
        return self.size

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, rank={self.rank}"


class FactoredStructure(LinearStructure):
    """A structure that stands for the best approximation of a rank: its error is the spectral tail."""

    spectral = True
    output_factor = "U"

    @abstractmethod
    def left(self, U: Tensor, tensors: Mapping[str, Tensor]) -> Tensor:
        """`A (out, r)` with `Ŵ = A V`, for any `U` of the same shape."""

    def errors(self, site: Site, problems: Sequence[Problem]) -> Tensor:
        (problem,) = problems
        return problem.tail

    def approximate(self, problems: Sequence[Problem], size: int) -> list[Tensor]:
        U, V = problems[0].approximation(size)
        return [U @ V]

    def round(
        self, problem: Problem, size: int, tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Rounded], float]:
        U, V, error = problem.round_product(
            lambda U: self.left(U, tensors), tensors["U.weight"], tensors["V.weight"]
        )
        return {"U.weight": U, "V.weight": V}, error
