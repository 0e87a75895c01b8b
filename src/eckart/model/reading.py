"""Which stored tensor is which weight of a model, as transformers would load it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)
from transformers.pytorch_utils import Conv1D

from eckart.structures import structure_of


def stored_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """The name of each weight of a model to the name of the stored tensor that holds it as it is.

    A weight that transformers makes of several tensors, or of a part of one, is not there: only loading the
    model gives it.

    Args:
        model: it may be on the meta device.
        stored: names of tensors in its checkpoint.
    """
    weights = model.state_dict()
    return {
        name: key for key, (name, whole) in loaded_names(model, stored).items() if whole and name in weights
    }


def loaded_names(model: Any, stored: Iterable[str]) -> dict[str, tuple[str, bool]]:
    """The name that transformers loads each stored tensor by, and whether it is all of what is loaded by it.

    transformers adds and removes the prefix of the backbone, and renames what older checkpoints called
    otherwise.
    """
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    prefix, weights = model.base_model_prefix, model.state_dict()
    # What is done to a weight of the class on loading (turned, say) is not done to the factors in its place.
    factors = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        if structure_of(module) is not None
        for part in module.state_dict()
    }
    found: dict[str, tuple[str, bool]] = {}
    # In the order in which transformers reads them: some renamings depend on what came before.
    for key in sorted(stored, key=dot_natural_key):
        name, converted = rename_source_key(key, renamings, converters, prefix, weights)
        if name not in weights and key in weights:
            name, converted = rename_source_key(key, [], [], prefix, weights)
        found[key] = name, converted is None or (name == key and key in factors)
    return found


def as_linear(module: nn.Module, stored: Tensor) -> Tensor:
    """A linear layer's weight as `(out, in)`, from the way in which its kind of module stores it."""
    return stored.T if isinstance(module, Conv1D) else stored
