"""Which layers of a model take adapters, by the names that peft matches."""

from __future__ import annotations

from typing import Any

from torch import nn

from eckart.model import targets
from eckart.structures import StructuredLinear, parts_of
from eckart.types import UsageError


def lora_targets(model: Any) -> list[str]:
    """Names for peft's `LoraConfig(target_modules=…)`: the factors, and the layers that stayed dense.

    Whole names, of plain linear layers alone: peft takes each for the layer of that name and no other. An
    adapter on a factor is a linear change of the layer, and merges into the factor. On a pivoted layer's `V`
    it changes every output, on its `U` those that are not pivots. Heads and embeddings are not among them
    unless they are factored. On a model that is not compressed, they are its targets.

    Args:
        model: loaded by plain transformers, or just compressed.

    Returns:
        The names in the model's order, `V` before `U`.

    Raises:
        UsageError: it is no model, or none of its layers takes an adapter.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"{type(model).__name__} is no model: load it first, with from_pretrained")
    wanted = {*factor_names(model), *(target.name for target in targets.find_targets(model).targets)}
    return [name for name, _ in model.named_modules() if name in wanted]


def factor_names(model: nn.Module) -> list[str]:
    """The factors of a compressed model that are plain linear layers, `V` before `U`."""
    return [
        f"{name}.{layer}"
        for name, module in model.named_modules()
        if isinstance(module, StructuredLinear)
        for layer in (
            part.rpartition(".")[0] for part, kind in parts_of(module).items() if kind.role == "matrix"
        )
        if type(module.get_submodule(layer)) is nn.Linear
    ]
