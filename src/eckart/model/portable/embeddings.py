"""Structures in the places of layers and embeddings of a model, and what is tied between them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from eckart.model.portable.groups import group_ties
from eckart.structures.modules import StructuredEmbedding, StructuredLinear, parts_of, put
from eckart.structures.pieces import Shape
from eckart.structures.registry import find, structure_of

TIED_WHEN_DENSE = "_eckart_tied_when_dense"
"""Attribute of a model for its ties as its class declares them, while structures change them."""


def shape_of(module: Any) -> Shape:
    """The shape of a dense layer or embedding, also of GPT-2's `Conv1D`, which stores `(in, out)`."""
    rows, columns = module.weight.shape
    if not isinstance(module, nn.Embedding) and not hasattr(module, "in_features"):
        rows, columns = columns, rows
    return Shape(int(rows), int(columns), getattr(module, "bias", None) is not None)


def layer_like(old: Any, structure: str, size: int, inner: tuple[str, int] | None = None) -> Any:
    """An empty structure of a linear layer's shape and dtype, on its device."""
    shape = replace(shape_of(old), inner=inner)
    return find(structure).layer(shape, size, old.weight.device, old.weight.dtype)


def put_structure(
    model: nn.Module,
    name: str,
    tied: list[str],
    structure: str,
    size: int,
    scale: float,
    inner: tuple[str, int] | None = None,
) -> nn.Module:
    """Replace a layer or an embedding, and what is tied to it, by empty structures with the same tensors.

    Args:
        tied: names of what is tied to it.
        scale: what the embeddings among them multiply by.
        inner: as of a `Shape`.

    Returns:
        The first of the structures.
    """
    first: Any = None
    for each in (name, *tied):
        old: Any = model.get_submodule(each)
        if isinstance(old, nn.Embedding):
            device = old.weight.device if first is None else "meta"
            new = find(structure).embedding(old, size, scale, device)
        else:
            new = layer_like(old, structure, size, inner)
        if first is None:
            first = new
        else:
            share(first, new)
        put(model, each, new.train(old.training))
    return first  # type: ignore[no-any-return]


def share(first: Any, other: Any) -> None:
    """Give one structure the tensors of another; biases stay its own."""
    for name, part in parts_of(other).items():
        owner, _, leaf = name.rpartition(".")
        place = other.get_submodule(owner)
        if part.role == "matrix":
            setattr(place, leaf, first.get_parameter(name))
        elif part.role == "index":
            setattr(place, leaf, first.get_buffer(name))


def share_indices(model: nn.Module) -> None:
    """Let structures with the same matrices have the same indices, those of the first embedding among them.

    These alone are saved: transformers ties parameters, and no buffers.
    """
    modules = [m for m in model.modules() if isinstance(m, (StructuredEmbedding, StructuredLinear))]
    owners: dict[int, Any] = {}
    for module in sorted(modules, key=lambda module: not isinstance(module, StructuredEmbedding)):
        matrices = _matrices(module)
        if not matrices:
            continue
        known = owners.get(id(matrices[0]))
        if known is None:
            if isinstance(module, StructuredEmbedding):
                owners[id(matrices[0])] = module
            continue
        for name, part in parts_of(module).items():
            if part.role == "index":
                owner, _, leaf = name.rpartition(".")
                module.get_submodule(owner).register_buffer(leaf, known.get_buffer(name), persistent=False)


def retie(model: nn.Module) -> None:
    """Let transformers tie the matrices where it tied the weights that they stand for; again changes nothing.

    Weights of which one became a structure and the other did not are tied no more, and what the structures of
    a site share is tied.
    """
    share_indices(model)
    for part in model.modules():
        tied = getattr(part, "all_tied_weights_keys", None)
        if tied is None:
            continue
        changed = group_ties(model, part)
        for target, source in tied.items():
            changed |= _pairs(part, target, source)
        if changed != tied:
            part.__dict__.setdefault(TIED_WHEN_DENSE, tied)
            part.all_tied_weights_keys = changed  # type: ignore[assignment]
            part._tied_weights_keys = changed  # type: ignore[assignment]


def untie(model: nn.Module) -> None:
    """Undo `retie`, for a model that is dense again."""
    for part in model.modules():
        if (tied := part.__dict__.pop(TIED_WHEN_DENSE, None)) is not None:
            del part._tied_weights_keys
            part.all_tied_weights_keys = tied


def _pairs(model: nn.Module, target: str, source: str) -> dict[str, str]:
    """What stands for a pair of tied tensors, by names."""
    (one, _, leaf), (other, _, _) = (name.rpartition(".") for name in (target, source))
    try:
        owners: list[Any] = [model.get_submodule(name) for name in (one, other)]
    except AttributeError:
        return {target: source}
    if not any(structure_of(owner) for owner in owners):
        return {target: source}
    if leaf == "bias":
        own = [_names(owner, "bias") if structure_of(owner) else ["bias"] for owner in owners]
        # A head whose bias is in two places has it for its own.
        shared = all(len(names) == 1 for names in own)
    else:
        own = [_names(owner, "matrix") if structure_of(owner) else [] for owner in owners]
        shared = all(mine is theirs for mine, theirs in zip(*map(_matrices, owners), strict=False))
        shared = shared and all(own)
    return {f"{one}.{a}": f"{other}.{b}" for a, b in zip(*own, strict=False)} if shared else {}


def _matrices(module: Any) -> list[nn.Parameter]:
    """The parameters of a structure's matrices; none of a dense layer, or where one is rounded."""
    if structure_of(module) is None:
        return []
    try:
        return [module.get_parameter(name) for name in _names(module, "matrix")]
    except AttributeError:
        return []


def _names(module: Any, role: str) -> list[str]:
    return [name for name, part in parts_of(module).items() if part.role == role]
