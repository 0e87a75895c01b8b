"""Empty structures in the places that a config names, before weights are read."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from torch import nn

from eckart.model.portable.embeddings import layer_like, put_structure, retie, shape_of
from eckart.model.portable.entries import read_entry, read_inner, require_size
from eckart.model.portable.groups import share_groups
from eckart.structures.modules import StructuredEmbedding, StructuredLinear, put
from eckart.structures.registry import find


def find_module(model: nn.Module, name: str) -> str | None:
    """The name under which `model` knows a module that was saved as `name`; `None` where it lacks it.

    A head model's backbone is saved with a prefix that the bare backbone lacks, and the other way round.
    """
    prefix = getattr(model, "base_model_prefix", "")
    for candidate in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}"):
        try:
            model.get_submodule(candidate)
        except AttributeError:
            continue
        return candidate
    return None


def _find_all(model: nn.Module, saved_names: Collection[str]) -> dict[str, str]:
    """Saved names to the model's own, without those of parts that its class does not have.

    A bare backbone has no head, and T5's encoder alone no decoder. But a block that lacks some of its
    modules, or a model that has none of the blocks, goes by other names than the one that was saved:
    its weights would be random.
    """
    found = {saved: name for saved in saved_names if (name := find_module(model, saved)) is not None}
    in_blocks = {saved: block[0] for saved in saved_names if (block := re.match(r".+?\.\d+(?=\.)", saved))}
    lost = [saved for saved in in_blocks if saved not in found]
    renamed = [saved for saved in lost if find_module(model, in_blocks[saved]) is not None]
    if renamed or (lost and len(lost) == len(in_blocks)):
        raise ValueError(
            f"the config says that {(renamed or lost)[0]!r} is compressed, but this {type(model).__name__} "
            "has no such module: load it by the class that it was saved from, or fetch the folder again"
        )
    return found


def swap_modules(model: nn.Module, modules: dict[str, Any]) -> None:
    """Replace the named linear layers by empty structures of the given sizes, in place.

    Args:
        modules: module name to rank, or to `{"rank": …, "structure": …}`; of an embedding also `tied`, the
            names of what has the same tensors, and `scale`; of one that is not the first of its site `site`,
            the name of that.

    Raises:
        ValueError: a name or a structure that is not known, or a size that the layer cannot have.
    """
    for saved_name, name in _find_all(model, modules).items():
        structure, size = read_entry(saved_name, modules[saved_name])
        old: Any = model.get_submodule(name)
        if isinstance(old, (StructuredLinear, StructuredEmbedding)):
            continue
        if not isinstance(getattr(old, "weight", None), nn.Parameter) or old.weight.ndim != 2:
            raise ValueError(
                f"the config says that {saved_name!r} is compressed, but it is a {type(old).__name__} here: "
                "load it by the class that it was saved from, or fetch the folder again"
            )
        shape = replace(shape_of(old), inner=read_inner(saved_name, modules[saved_name], shape_of(old)))
        require_size(saved_name, structure, size, shape)
        if isinstance(old, nn.Embedding):
            if "embedding" not in find(structure).supports:
                raise ValueError(f"{saved_name}: an embedding cannot be {structure}; fetch the folder again")
            entry = modules[saved_name] if isinstance(modules[saved_name], dict) else {}
            tied = [other for saved in entry.get("tied", []) if (other := find_module(model, saved))]
            put_structure(model, name, tied, structure, size, entry.get("scale", 1.0))
            continue
        new = layer_like(old, structure, size, shape.inner)
        new.leader = _leader(model, saved_name, modules)
        put(model, name, new)
    share_groups(model)
    retie(model)


def _leader(model: nn.Module, saved_name: str, modules: dict[str, Any]) -> str | None:
    """The name in the model of the first of a module's site, where its entry says that it has one."""
    entry = modules[saved_name]
    site = entry.get("site") if isinstance(entry, dict) else None
    if site is None:
        return None
    leader, own = find_module(model, str(site)), read_entry(saved_name, entry)
    if leader is None or site not in modules or own != read_entry(site, modules[site]):
        raise ValueError(
            f"{saved_name}: the config says that it is in one site with {site!r}, and it is not; "
            "fetch the folder again"
        )
    return leader
