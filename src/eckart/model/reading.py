"""Which stored tensor is which weight of a model, as transformers would load it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key


def stored_names(model: Any, stored: Iterable[str]) -> dict[str, str]:
    """The name of each weight of a model to the name of the stored tensor that holds it as it is.

    transformers adds and removes the prefix of the backbone, and renames what older checkpoints called
    otherwise. A weight that it makes of several tensors, or of a part of one, is not there: only loading
    the model gives it.

    Args:
        model: it may be on the meta device.
        stored: names of tensors in its checkpoint.
    """
    changes = get_model_conversion_mapping(model)
    renamings = [change for change in changes if isinstance(change, WeightRenaming)]
    converters = [change for change in changes if isinstance(change, WeightConverter)]
    weights = model.state_dict()
    found: dict[str, str] = {}
    # In the order in which transformers reads them: some renamings depend on what came before.
    for key in sorted(stored, key=dot_natural_key):
        name, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, weights)
        if converted is None and name in weights:
            found[name] = key
    return found
