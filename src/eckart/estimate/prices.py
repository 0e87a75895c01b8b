"""What targets cost: in parameters, or in bytes of the files that they are saved in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eckart.linalg import largest_paying_rank, parameters
from eckart.model import replacing
from eckart.model import targets as targets_
from eckart.model.portable.quantized import BITS, shapes_of
from eckart.types import CORRECTED, Curve, Quantize, Recipe, Structure, Target

ORDER_BYTES = 4
"""For each output of a pivoted weight, where it is."""
ENTRY = '"":{"dtype":"BF16","shape":[,],"data_offsets":[,]},'
FILE = 64
"""Of a safetensors file beside its tensors and their entries: a length, the format, filling."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Prices:
    """The costs of one model's targets under one recipe.

    Attributes:
        structure, quantize: of the recipe.
        in_bytes: whether the budget is in bytes, entries of the files' headers among them.
        items: bytes of an entry of each target's weight.
        fixed: what is in no target, in the budget's unit.
        tensors: bytes of the tensors that are in no target.
        digits: of the largest offset in a file.
    """

    structure: Structure
    quantize: Quantize | None
    in_bytes: bool
    items: dict[str, int]
    fixed: int
    tensors: int
    digits: int

    @classmethod
    def of(cls, model: Any, targets: Sequence[Target], recipe: Recipe, more: int = 0) -> Prices:
        """Those of a model, which may be on the meta device.

        Args:
            more: parameters that its checkpoint has beside those of the model.
        """
        weights = {target.name: targets_.weight_of(model.get_submodule(target.name)) for target in targets}
        items = {name: weight.element_size() for name, weight in weights.items()}
        held = sum(weight.numel() for weight in weights.values())
        tensors = (
            replacing.count_bytes(model)
            + more * model.dtype.itemsize
            - sum(weight.numel() * weight.element_size() for weight in weights.values())
        )
        digits = len(str(replacing.count_bytes(model)))
        fixed = replacing.count_parameters(model) + more - held
        if recipe.size is not None:
            blocks = {targets_.block_of(model, target.name) for target in targets}
            tied = getattr(model, "all_tied_weights_keys", None) or {}
            others = (
                (name, tuple(tensor.shape))
                for name, tensor in model.state_dict().items()
                if name not in tied and name.removesuffix(".weight") not in items
            )
            fixed = tensors + FILE * (len(blocks) + 1) + _entries(others, digits)
        return cls(recipe.structure, recipe.quantize, recipe.size is not None, items, fixed, tensors, digits)

    def cost(self, target: Target, rank: int | None) -> int:
        """Of a target at a rank, `None` for dense, in the budget's unit."""
        if not self.in_bytes:
            shape = (target.out_features, target.in_features)
            return parameters("dense" if rank is None else self.structure, *shape, rank or 0)
        return self.bytes(target, rank) + _entries(self._tensors(target, rank), self.digits)

    def bytes(self, target: Target, rank: int | None) -> int:
        """Of the tensors that a target's weight is saved in."""
        item, shape = self.items[target.name], (target.out_features, target.in_features)
        if self.structure == CORRECTED:
            # What stays dense beside it is not rounded.
            floats = target.in_features * target.out_features if rank is None else rank * sum(shape)
            return floats * item + (0 if rank is None else self._matrix(*shape, item))
        if rank is None:
            return self._matrix(*shape, item)
        rows = target.out_features - (rank if self.structure == "pivoted" else 0)
        order = ORDER_BYTES * target.out_features if self.structure == "pivoted" else 0
        return self._matrix(rank, target.in_features, item) + self._matrix(rows, rank, item) + order

    def curves(self, targets: Sequence[Target], errors: Sequence[np.ndarray] | None = None) -> list[Curve]:
        """What each target costs, and with errors what it loses, at each rank that pays.

        Args:
            errors: for each target, at each rank from 0; comparable between targets.
        """
        found = []
        for index, target in enumerate(targets):
            ranks = range(self._largest(target) + 1)
            dense = self.cost(target, None)
            costs = np.array([0, *(self.cost(target, rank) for rank in ranks[1:])])
            if self.in_bytes:
                # Whole bytes and scales make steps; allocators want costs that rise at every rank.
                steps = np.arange(len(costs))
                costs = np.maximum.accumulate(costs - steps) + steps
                costs = costs[: max(1, int(np.searchsorted(costs, dense)))]
            known = None if errors is None else errors[index][: len(costs)]
            found.append(Curve(costs, dense, known))
        return found

    def _largest(self, target: Target) -> int:
        """The rank that costs are counted up to: the largest that may pay."""
        shape = (target.out_features, target.in_features)
        if self.structure == CORRECTED and self.in_bytes:
            return min(shape)
        return largest_paying_rank(self.structure, *shape)

    def _matrix(self, out_features: int, in_features: int, item: int) -> int:
        if self.quantize is None:
            return out_features * in_features * item
        (rows, codes), (_, groups) = shapes_of(BITS[self.quantize], out_features, in_features)
        return rows * (codes + groups * item)

    def _tensors(self, target: Target, rank: int | None) -> list[tuple[str, Shape]]:
        out_features, in_features, name = target.out_features, target.in_features, target.name
        if self.structure == CORRECTED:
            shapes = {"": (out_features, in_features)}
            if rank is not None:
                shapes = {".V": (rank, in_features), ".U": (out_features, rank)}
            floats = [(f"{name}{part}.weight", shape) for part, shape in shapes.items()]
            return floats + ([] if rank is None else self._parts(f"{name}.Q", out_features, in_features))
        if rank is None:
            return self._parts(name, out_features, in_features)
        rows = out_features - (rank if self.structure == "pivoted" else 0)
        found = self._parts(f"{name}.V", rank, in_features) + self._parts(f"{name}.U", rows, rank)
        if self.structure == "pivoted":
            found.append((f"{name}.order", (out_features,)))
        if target.bias:
            # One entry is counted among the others, under a name that is two letters shorter.
            found += [(f"{name}.V.bias", (out_features,))] if self.structure == "pivoted" else []
        return found

    def _parts(self, name: str, out_features: int, in_features: int) -> list[tuple[str, Shape]]:
        if self.quantize is None:
            return [(f"{name}.weight", (out_features, in_features))]
        codes, scales = shapes_of(BITS[self.quantize], out_features, in_features)
        return [(f"{name}.codes", codes), (f"{name}.scales", scales)]


def _entries(tensors: Iterable[tuple[str, Shape]], digits: int) -> int:
    """Bytes of the header that names tensors, at most."""
    return sum(
        len(ENTRY) + len(name) + len(",".join(map(str, shape))) + 2 * digits for name, shape in tensors
    )
