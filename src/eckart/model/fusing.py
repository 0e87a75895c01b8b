"""One product for the `V`s of modules that read the same input: query, key and value; gate and up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eckart.structures import FactoredLinear
from eckart.types import UsageError


class Shared:
    """`V x` of several modules, computed when the first of them asks, and let go when the last has.

    Their `V.weight`s become views of one tensor, so nothing is held twice, and names, saving and training
    stay as they are. Where a gradient is wanted, or a `V` is no plain linear layer any more (an adapter sits
    on it, say), each computes its own.

    Args:
        modules: in the order in which their model calls them.
    """

    def __init__(self, modules: Sequence[FactoredLinear]) -> None:
        self.modules = list(modules)
        self.ranks = [module.rank for module in modules]
        self._held: tuple[Tensor, tuple[Tensor, ...]] | None = None
        self._join()

    def __call__(self, module: FactoredLinear, x: Tensor) -> Tensor:
        y: Tensor
        if torch.is_grad_enabled() or not self._joined():
            y = module.V(x)
            return y
        # A tuple that is looked at once: another thread may put its own in the same place.
        held = self._held
        if held is None or held[0] is not x:
            held = (x, nn.functional.linear(x, self._weight, self._bias).split(self.ranks, -1))
        place = next(place for place, other in enumerate(self.modules) if other is module)
        self._held = held if place < len(self.modules) - 1 else None
        return held[1][place]

    def _joined(self) -> bool:
        """Whether there is one product. Weights that went elsewhere since, as to a GPU, are joined again."""
        if any(type(module.V) is not nn.Linear for module in self.modules):
            return False
        if torch.compiler.is_compiling():
            return True
        starts = [module.V.weight.data_ptr() for module in self.modules]
        if starts != self._starts:
            self._join()
        return True

    def _join(self) -> None:
        """Make the modules' weights, and biases where some have one, views of one tensor each."""
        parts = [module.V for module in self.modules]
        self._weight = torch.cat([part.weight.detach() for part in parts])
        self._bias = None
        if any(part.bias is not None for part in parts):
            none = self._weight.new_zeros
            self._bias = torch.cat(
                [none(len(p.weight)) if p.bias is None else p.bias.detach() for p in parts]
            )
            for part, values in zip(parts, self._bias.split(self.ranks), strict=True):
                if part.bias is not None:
                    part.bias.data = values
        for part, rows in zip(parts, self._weight.split(self.ranks), strict=True):
            part.weight.data = rows
        self._starts = [part.weight.data_ptr() for part in parts]


def fuse(model: Any) -> Any:
    """Make a compressed model compute one `V` for what reads the same input, in place, for inference.

    Which modules those are is seen from a pass over a few tokens: they are in one parent, and their model
    hands them the same tensor. It saves starting a product for each, which counts where these are small: on
    a GPU, and in narrow models.

    Returns:
        The model.

    Raises:
        UsageError: a model that cannot run on its own dummy input, or has no low-rank structure.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"{type(model).__name__} is no model: load it first, with from_pretrained")
    groups = [group for group in _readers(model) if len(group) > 1]
    for group in groups:
        shared = Shared(group)
        for module in group:
            module.shared = shared
    return model


def _readers(model: Any) -> list[list[FactoredLinear]]:
    """Structures by the tensor that they read and the module that they are in."""
    factored = {name: module for name, module in model.named_modules() if isinstance(module, FactoredLinear)}
    if not factored:
        raise UsageError(f"this {type(model).__name__} has no low-rank structure: there is nothing to fuse")
    seen: dict[tuple[str, int], dict[FactoredLinear, None]] = defaultdict(dict)
    alive: list[Tensor] = []

    def look(parent: str) -> Any:
        def hook(module: FactoredLinear, arguments: tuple[Tensor, ...]) -> None:
            # A tensor that is gone could lend its identity to another.
            alive.append(arguments[0])
            seen[parent, id(arguments[0])][module] = None

        return hook

    hooks = [
        module.register_forward_pre_hook(look(name.rpartition(".")[0])) for name, module in factored.items()
    ]
    try:
        with torch.no_grad():
            model(**{key: value.to(model.device) for key, value in model.dummy_inputs.items()})
    except Exception as error:
        raise UsageError(f"{type(model).__name__} does not run on its own dummy input: {error}") from error
    finally:
        for handle in hooks:
            handle.remove()
    return [list(group) for group in seen.values()]
