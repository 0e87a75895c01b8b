"""Whether the weights of a folder are those of its config: by the files' headers, before a weight is read.

transformers only warns of a weight that it does not find, and fills it with random numbers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from eckart.model.portable.entries import read_entry
from eckart.model.portable.swapping import find_module
from eckart.structures.pieces import Shape
from eckart.structures.registry import find, replacements, structure_of

Shapes = dict[str, tuple[int, ...]]
"""Names of tensors to their shapes."""

AGAIN = "config and weights disagree; fetch or save the folder again"


def stored_shapes(files: Sequence[str]) -> Shapes | None:
    """What is in some safetensors files, by their headers; `None` where one is of another kind.

    A header is 8 bytes of length, little-endian, and JSON of that length. It is read by hand, since only
    Eckart's checkpoint room imports safetensors, and this file travels without it.

    Raises:
        ValueError: a file whose header is none.
    """
    shapes: Shapes = {}
    for path in files:
        if not str(path).endswith(".safetensors"):
            return None
        with Path(path).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(length, Path(path).stat().st_size)))
                shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name[:2] != "__"}
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                raise ValueError(f"{path} is truncated or corrupt; fetch or save it again") from None
    return shapes


def require_stored(model: Any, modules: dict[str, Any], stored: Shapes) -> None:
    """Check the structures of a model, in place and empty, against the tensors that are to fill them.

    Args:
        modules: what `swap_modules` read.
        stored: of all the weights' files, by the names there.

    Raises:
        ValueError: a tensor that is missing, has another shape, or belongs to another structure; or a
            module that neither the model nor the weights know.
    """
    ours = _renamed(model, stored)
    names = {saved: name for saved in modules if (name := find_module(model, saved)) is not None}
    parts: dict[str, Any] = {name: {} for name in names.values()}
    for key, shape in ours.items():
        owner = key
        while owner and owner not in parts:
            owner = owner.rpartition(".")[0]
        if owner:
            parts[owner][key.removeprefix(f"{owner}.")] = shape
        elif (dense := _structured(key)) is not None and _is_dense(model, dense):
            raise ValueError(
                f"the weights hold factors of {dense}, which the config does not say is compressed: {AGAIN}"
            )
    # A tied tensor is stored under one of its names.
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    for saved, entry in modules.items():
        if saved in names:
            _require_parts(model, names[saved], read_entry(saved, entry), parts[names[saved]], tied)
        # A part that this class does not have, as a head, is stored. What is not is a mistake.
        elif not any(_is_of(saved, key) for key in (*stored, *ours)):
            raise ValueError(
                f"the config says that {saved!r} is compressed, but neither {type(model).__name__} nor the "
                f"weights have such a module: {AGAIN}"
            )


def _require_parts(
    model: Any, name: str, entry: tuple[str, int], found: dict[str, Any], tied: set[str]
) -> None:
    """The same for one module: `found` are the shapes of its tensors by their names within it."""
    structure, rank = entry
    wanted = model.get_submodule(name).state_dict()
    for part, tensor in wanted.items():
        shape = found.get(part)
        if part not in found and f"{name}.{part}" not in tied:
            raise ValueError(
                f"the config says that {name} is compressed, but its {part} is not among the weights: {AGAIN}"
            )
        if shape is not None and shape != tuple(tensor.shape):
            raise ValueError(
                f"the config makes {name} {structure} of rank {rank}, but its {part} is stored as {shape}, "
                f"not {tuple(tensor.shape)}: {AGAIN}"
            )
    for part in found:
        if part not in wanted:
            raise ValueError(
                f"the config makes {name} {structure} of rank {rank}, and the weights have its {part}, which "
                f"is no part of that: {AGAIN}"
            )


def _is_of(name: str, key: str) -> bool:
    """Whether a tensor is of a module of that name, from its block on: what is before differs by class."""
    tail = re.search(r"(?<![^.])\d+\..+|[^.]+$", name)
    return tail is not None and f".{tail[0]}." in f".{key}"


def require_numbers(model: Any, modules: dict[str, str], stored: Shapes) -> None:
    """Check quantized layers, in place and empty, against the tensors that are to fill them.

    Args:
        modules: what `quantize_modules` read.
        stored: as for `require_stored`.

    Raises:
        ValueError: their numbers or scales are not among the weights, or of another shape.
    """
    ours = _renamed(model, stored)
    for saved, kind in modules.items():
        name = find_module(model, saved)
        for part in ("codes", "scales") if name is not None else ():
            wanted = tuple(model.get_submodule(name).state_dict()[part].shape)
            found = ours.get(f"{name}.{part}", ())
            if found is not None and found != wanted:
                raise ValueError(
                    f"the config says that {saved} is {kind}, but its {part} "
                    + (f"are stored as {found}, not {wanted}" if found else "are not among the weights")
                    + f": {AGAIN}"
                )


def _structured(key: str) -> str | None:
    """The name of the module that a tensor is of, where its own name is one that structures have."""
    stem, _, leaf = key.rpartition(".")
    name, _, owner = stem.rpartition(".")
    known = {
        part.partition(".")[0]
        for structure in replacements()
        for part in find(structure).parts(Shape(2, 2), 1)
        if part.endswith(f".{leaf}")
    }
    return name if owner in known else None


def _is_dense(model: Any, name: str) -> bool:
    """Whether the model has a module of that name with a weight and no factors."""
    try:
        module = model.get_submodule(name)
    except AttributeError:
        return False
    return structure_of(module) is None and isinstance(getattr(module, "weight", None), nn.Parameter)


def _renamed(model: Any, stored: Shapes) -> dict[str, tuple[int, ...] | None]:
    """Shapes by the names that loading will use; `None` where it makes one tensor of several."""
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    own, prefix = model.state_dict(), model.base_model_prefix
    renamed: dict[str, tuple[int, ...] | None] = {}
    for key, shape in stored.items():
        name, pattern = rename_source_key(key, renamings, converters, prefix, own)
        if name not in own and key in own:
            name, pattern = key, None
        renamed[name] = shape if pattern is None else None
    return renamed
