"""Every tensor of a checkpoint is some weight of the model, or the config does not say which model it is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoModel
from transformers.models.auto import modeling_auto

from eckart.model import building
from eckart.model.reading import loaded_names, stored_names
from eckart.types import EckartError

Shapes = Mapping[str, tuple[int, ...]]
SCALES = re.compile(r"scale|qweight|qzeros|g_idx|absmax|quant_map|quant_state|\.SCB$")
"""What quantized checkpoints call what they hold beside their codes."""
OBSOLETE = r"\.attn\.masked_bias$"
"""A number that attention once stored, in old checkpoints of GPT-2 and its kin."""
NAMED = 3
"""Tensors that a message names at most."""


def resolve(folder: Path, config: Any, stored: Shapes, drop: bool = False) -> list[str]:
    """Have a config name the class that takes all that is stored, where it names none or the bare backbone.

    Args:
        config: of a model that is not quantized.
        stored: the tensors of the checkpoint by the names there.
        drop: whether what no weight takes is left out.

    Returns:
        What is left out.

    Raises:
        EckartError: tensors that no weight of the model takes, or several classes that would take them.
    """
    model = building.build_empty(config)
    left = unused(model, stored)
    if left and _is_bare(config):
        classes = _classes(config, stored)
        if len(classes) > 1:
            raise EckartError(
                f"{folder} stores a head ({_some(left)}) and its config does not say of which class: write "
                f'one into config.json, as "architectures": ["{classes[0]}"]; of {", ".join(classes)}'
            )
        if classes:
            config.architectures, left = classes, []
            model = building.build_empty(config)
    if not left or drop:
        _require_whole(folder, model, stored)
        return left
    if scales := [name for name in left if SCALES.search(name)]:
        raise EckartError(
            f"{folder} holds numbers of few bits with scales ({_some(scales)}), and its config has no "
            "quantization_config: without that the weights would be read as if they had no scales. Fetch the "
            "config again, or take the float model"
        )
    kind = building.model_class(config).__name__
    whole = [name for name in _classes(config, stored) if name != kind]
    better = f" ({' and '.join(whole)} would take all)" if whole else ""
    raise EckartError(
        f"{folder} stores {len(left)} tensors that {kind} has no weight for: {_some(left)}. Name the class "
        f"that they are of in config.json{better}, mend its numbers, or leave them out with --drop-unused"
    )


def unused(model: Any, stored: Iterable[str]) -> list[str]:
    """Names of stored tensors that no weight of a model takes, but for those that transformers ignores too.

    Args:
        model: it may be on the meta device.
    """
    buffers = {name for name, _ in model.named_buffers()}
    # What is not saved any more is worked out, whatever an older checkpoint has of it: GPT-2's masks.
    own = buffers | set(model.state_dict())
    left = [key for key, (name, _) in loaded_names(model, stored).items() if name not in own]
    patterns = {OBSOLETE, *(model._keys_to_ignore_on_load_unexpected or ())}
    # As transformers: what older checkpoints stored and is worked out today.
    if any(name.endswith("rotary_emb.inv_freq") for name in buffers):
        patterns.add(r"rotary_emb\.inv_freq")
    if any(name.endswith("position_ids") for name in buffers):
        patterns.add(r"(^|\.)position_ids$")
    ignored = re.compile("|".join(f"({pattern})" for pattern in sorted(patterns)))
    return [name for name in left if not ignored.search(name)]


def _is_bare(config: Any) -> bool:
    """Whether a config names no class, or the backbone without a head."""
    backbone = modeling_auto.MODEL_MAPPING.get(type(config), None)
    kind = building.model_class(config)
    return kind is AutoModel or kind is backbone


def _classes(config: Any, stored: Shapes) -> list[str]:
    """The classes for a config that take exactly what is stored, by their names."""
    kinds = dict.fromkeys(kind for _, kinds in building.auto_choices(config) for kind in kinds)
    return [kind.__name__ for kind in kinds if _takes(kind, config, stored)]


def _require_whole(folder: Path, model: Any, stored: Shapes) -> None:
    """Raises EckartError where a weight is not stored, or in another shape."""
    own, kind = model.state_dict(), type(model).__name__
    loaded, tied = loaded_names(model, stored), dict(model.all_tied_weights_keys)
    for key, (name, whole) in loaded.items():
        if whole and name in own and tuple(own[name].shape) != tuple(stored[key]):
            raise EckartError(
                f"{folder} does not fit its config: {name} is stored as {tuple(stored[key])}, and the config "
                f"makes it {tuple(own[name].shape)}"
            )
    there = {name for name, _ in loaded.values()}
    absent = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    missing = [
        name
        for name in own
        if name not in there
        and tied.get(name) not in there
        and not any(target in there for target, source in tied.items() if source == name)
        and not any(pattern.search(name) for pattern in absent)
    ]
    if missing:
        raise EckartError(
            f"{folder} lacks {len(missing)} weights of {kind}, {missing[0]} among them; transformers would "
            "fill them with random numbers"
        )


def _takes(kind: Any, config: Any, stored: Shapes) -> bool:
    """Whether a class takes exactly what is stored."""
    named = type(config).from_dict({**config.to_dict(), "architectures": [kind.__name__]})
    try:
        model = building.build_empty(named)
    except EckartError:
        return False
    if unused(model, stored):
        return False
    own, tied = model.state_dict(), set(model.all_tied_weights_keys)
    names = stored_names(model, stored)
    fits = all(tuple(own[name].shape) == tuple(stored[key]) for name, key in names.items())
    return fits and all(name in names or name in tied for name in own)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"
