"""Factored embeddings of tokens, and a head that is tied to one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eckart.model.portable.structures import STRUCTURES, FactoredLinear, PivotedLinear, put


class FactoredEmbedding(nn.Module):
    """What both structures share: they take the place of an embedding without holding its weight.

    `U` and `V` hold the same tensors as those of a linear structure `(out, in) = (tokens, width)`, so that a
    head which is tied to the embedding is that structure, with these very tensors.

    Args:
        num_embeddings, embedding_dim: tokens and width.
        rank: of the factors.
        padding_idx: a token that learns nothing (low-rank alone).
        scale: what the embedding's class multiplies by; 1 where it does not.
    """

    U: nn.Embedding
    V: nn.Linear
    order: Tensor
    pivoted = False

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        rank: int,
        padding_idx: int | None = None,
        scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.rank = num_embeddings, embedding_dim, rank
        self.padding_idx, self.scale = padding_idx, scale
        self.V = nn.Linear(embedding_dim, rank, bias=False, device=device, dtype=dtype)
        if self.pivoted:
            self.U = nn.Embedding(num_embeddings - rank, rank, device=device, dtype=dtype)
            self.register_buffer("order", torch.arange(num_embeddings, dtype=torch.int32, device=device))
        else:
            self.U = nn.Embedding(num_embeddings, rank, padding_idx, device=device, dtype=dtype)

    @property
    def weight(self) -> Tensor:
        """A stand-in with the dense weight's shape and dtype and no values: it exists nowhere."""
        return torch.empty(self.num_embeddings, self.embedding_dim, dtype=self.V.weight.dtype, device="meta")

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}, rank={self.rank}"

    def _scaled(self, rows: Tensor) -> Tensor:
        return rows if self.scale == 1 else rows * self.scale


class LowRankEmbedding(FactoredEmbedding):
    """`U[ids] V`, with `U (tokens, rank)` an embedding and `V (rank, width)` the weight of a linear layer."""

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.U(ids) @ self.V.weight
        return self._scaled(rows)


class PivotedEmbedding(FactoredEmbedding):
    """`rank` tokens have a row of `V` for their own, the others `U[…] V`; `order` says which is which."""

    pivoted = True

    def forward(self, ids: Tensor) -> Tensor:
        places = self.order[ids].long()
        pivots = nn.functional.embedding(places.clamp(max=self.rank - 1), self.V.weight)
        others = self.U((places - self.rank).clamp(min=0)) @ self.V.weight
        return self._scaled(torch.where((places < self.rank)[..., None], pivots, others))


EMBEDDINGS: dict[str, type[LowRankEmbedding] | type[PivotedEmbedding]] = {
    "lowrank": LowRankEmbedding,
    "pivoted": PivotedEmbedding,
}


def embedding_like(
    old: nn.Embedding,
    structure: str,
    rank: int,
    scale: float,
    of: FactoredLinear | FactoredEmbedding | None = None,
) -> FactoredEmbedding:
    """An empty structure in the place of an embedding; with `of`, one that has its very tensors."""
    new = EMBEDDINGS[structure](
        old.num_embeddings,
        old.embedding_dim,
        rank,
        padding_idx=old.padding_idx,
        scale=scale,
        device="meta" if of is not None else old.weight.device,
        dtype=old.weight.dtype,
    )
    if of is not None:
        share(of, new)
    return new


def share(first: Any, other: Any) -> None:
    """Give one structure the tensors of another; biases stay its own."""
    other.U.weight, other.V.weight = first.U.weight, first.V.weight
    if hasattr(first, "order"):
        other.order = first.order


def share_orders(model: nn.Module) -> None:
    """Let pivoted structures with one pair of factors have one order, that of the first embedding among them.

    It alone is saved: transformers ties parameters, and no buffers.
    """
    orders: dict[int, Tensor] = {}
    for module in model.modules():
        if isinstance(module, PivotedEmbedding):
            first = id(module.U.weight) not in orders
            order = orders.setdefault(id(module.U.weight), module.order)
            module.register_buffer("order", order, persistent=first)
    for module in model.modules():
        if isinstance(module, PivotedLinear):
            weight = getattr(module.U, "weight", None)
            if id(weight) in orders:
                module.register_buffer("order", orders[id(weight)], persistent=False)


def swap_embedding(
    model: nn.Module, name: str, tied: list[str], structure: str, rank: int, scale: float
) -> None:
    """Replace an embedding, and what is tied to it, by empty structures with one pair of factors."""
    first = embedding_like(model.get_submodule(name), structure, rank, scale)  # type: ignore[arg-type]
    put(model, name, first)
    for other in tied:
        old: Any = model.get_submodule(other)
        if isinstance(old, nn.Embedding):
            new: nn.Module = embedding_like(old, structure, rank, scale, first)
        else:
            place = old.weight.device, old.weight.dtype
            new = STRUCTURES[structure](old.in_features, old.out_features, rank, old.bias is not None, *place)
            share(first, new)
        put(model, other, new)


def retie(model: nn.Module) -> None:
    """Let transformers tie the factors where it tied the weights that they stand for; again changes nothing.

    Weights of which one became factors and the other did not are tied no more.
    """
    share_orders(model)
    for part in model.modules():
        tied = getattr(part, "all_tied_weights_keys", None)
        if not tied:
            continue
        changed: dict[str, str] = {}
        for target, source in tied.items():
            changed |= _pairs(part, target, source)
        if changed != tied:
            part.all_tied_weights_keys = changed  # type: ignore[assignment]
            part._tied_weights_keys = changed  # type: ignore[assignment]


def _pairs(model: nn.Module, target: str, source: str) -> dict[str, str]:
    """What stands for a pair of tied tensors, by names."""
    names = [name.rpartition(".") for name in (target, source)]
    owners: list[Any] = []
    for owner, _, _ in names:
        try:
            owners.append(model.get_submodule(owner))
        except AttributeError:
            return {target: source}
    factored = [isinstance(owner, (FactoredLinear, FactoredEmbedding)) for owner in owners]
    if not any(factored):
        return {target: source}
    (one, _, leaf), (other, _, _) = names
    if leaf == "bias":
        # A pivoted head has its bias in two places: it is its own.
        if any(isinstance(owner, PivotedLinear) for owner in owners):
            return {}
        ends = [".U.bias" if each else ".bias" for each in factored]
        return {one + ends[0]: other + ends[1]}
    if not all(factored) or owners[0].U.weight is not owners[1].U.weight:
        return {}
    return {one + part: other + part for part in (".U.weight", ".V.weight")}


def untie(model: nn.Module) -> None:
    """Undo `retie`, for a model that is dense again."""
    for part in model.modules():
        if "_tied_weights_keys" not in part.__dict__:
            continue
        del part._tied_weights_keys
        part.all_tied_weights_keys = {  # type: ignore[assignment]
            target.replace(".U.", "."): source.replace(".U.", ".")
            for target, source in part.all_tied_weights_keys.items()  # type: ignore[operator,union-attr]
            if not target.endswith(".V.weight")
        }
