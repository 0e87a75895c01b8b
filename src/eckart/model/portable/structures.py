"""The modules that take the place of a linear layer: two ordinary linear layers each."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FactoredLinear(nn.Module):
    """What the structures share: they take the place of a linear layer without holding its weight."""

    U: nn.Linear
    V: nn.Linear
    in_features: int
    out_features: int
    rank: int

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
        y: Tensor = self.U(self.V(x))
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
        pivots = self.V(x)
        return torch.cat([pivots, self.U(pivots)], dim=-1).index_select(-1, self.order)


STRUCTURES: dict[str, type[LowRankLinear] | type[PivotedLinear]] = {
    "lowrank": LowRankLinear,
    "pivoted": PivotedLinear,
}
