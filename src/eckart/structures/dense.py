"""The weight itself: an option at every site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.structures.contract import LinearStructure
from eckart.structures.pieces import Fitted, Part, Problem, Shard, Site
from eckart.structures.registry import add


class Dense(LinearStructure):
    """`y = W x + b`. It has no size, so it is no one's replacement; its error is nothing."""

    name = "dense"
    fewer = False
    supports: ClassVar[frozenset[str]] = frozenset({"training", "embedding", "sharding"})

    def sizes(self, site: Site) -> range:
        return range(0)

    def errors(self, site: Site, problems: Sequence[Problem]) -> Tensor:
        return torch.zeros(1, dtype=torch.float64)

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        weight = {"weight": Part((shape.out_features, shape.in_features))}
        return weight | ({"bias": Part((shape.out_features,), "bias")} if shape.bias else {})

    def solve(self, problem: Problem, size: int) -> Fitted:
        return Fitted({"weight": problem.weight.double()}, 0.0)

    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        bias = tensors.get("bias")
        return tensors["weight"].double(), None if bias is None else bias.double()

    def layer(
        self,
        shape: Any,
        size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        return nn.Linear(shape.in_features, shape.out_features, shape.bias, device, dtype)

    def shard(self, tensors: Mapping[str, Tensor], rows: Tensor, columns: slice) -> Shard:
        return Shard(tensors["weight"][rows][:, columns])


add(Dense())
