"""The modules that take the place of a linear layer: two ordinary linear layers each, or three."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

FEW = 16
"""Rows of activations below which starting another kernel takes longer than passing over them again."""


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of that name."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def rows_of(x: Tensor) -> int:
    """How many vectors there are in `(…, features)`."""
    return x.shape[:-1].numel()


class FactoredLinear(nn.Module):
    """What the structures share: they take the place of a linear layer without holding its weight."""

    U: nn.Linear
    V: nn.Linear
    in_features: int
    out_features: int
    rank: int
    shared: Callable[[FactoredLinear, Tensor], Tensor] | None = None
    """`V x` from a product that other modules share, where `eckart.fuse` made one."""

    @property
    def weight(self) -> Tensor:
        """A stand-in with the dense weight's shape and dtype and no values.

        Some models ask their layers for `weight.dtype` (T5's feed-forward). Computing with it fails:
        the dense weight exists nowhere.
        """
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


class LowRankLinear(FactoredLinear):
    """`y = U (V x) + b`, with `V (rank, in)` and `U (out, rank)` two ordinary linear layers.

    It holds `rank · (in + out)` parameters and the bias.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.V = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.U = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

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


class PivotedLinear(FactoredLinear):
    """`V x` gives `rank` of the outputs themselves, `U (V x)` the others; `order` puts them in place.

    It holds `rank · (in + out − rank)` parameters: the degrees of freedom of a rank-`rank` matrix. A
    bias sits in both layers: what `U` adds to `V`'s is already taken off in its own.
    """

    order: Tensor

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.V = nn.Linear(in_features, rank, bias=bias, device=device, dtype=dtype)
        self.U = nn.Linear(rank, out_features - rank, bias=bias, device=device, dtype=dtype)
        self.register_buffer("order", torch.arange(out_features, dtype=torch.int32, device=device))

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


class CorrectedLinear(FactoredLinear):
    """`y = Q x + U (V x) + b`, with `Q (out, in)` of few bits, and `V (rank, in)`, `U (out, rank)` of floats.

    `Q` is a plain linear layer until `quantize_modules` puts a `QuantizedLinear` in its place. It holds
    `in · out + rank · (in + out)` parameters and the bias: more than the dense layer, in fewer bytes.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.Q: nn.Module = nn.Linear(in_features, out_features, bias=False, device=device, dtype=dtype)
        self.V = nn.Linear(in_features, rank, bias=False, device=device, dtype=dtype)
        self.U = nn.Linear(rank, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.Q(x) + self.U(self._inner(x))
        return y


STRUCTURES: dict[str, type[LowRankLinear] | type[PivotedLinear] | type[CorrectedLinear]] = {
    "lowrank": LowRankLinear,
    "pivoted": PivotedLinear,
    "quantized+lowrank": CorrectedLinear,
}
