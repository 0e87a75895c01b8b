"""Structures into the modules of a model and out of them, and counting what is there."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eckart.model import vocabulary
from eckart.model.portable import (
    QUANT_METHOD,
    EckartConfig,
    ExpertStack,
    put_structure,
    retie,
    roll,
    share_groups,
    unroll,
    untie,
)
from eckart.model.portable.embeddings import share_indices
from eckart.model.portable.experts import save_by_own_names
from eckart.model.quantizing import inner_of, put_quantized
from eckart.model.targets import weight_of
from eckart.structures import (
    QuantizedLinear,
    Rounded,
    Structure,
    StructuredEmbedding,
    StructuredLinear,
    float_tensors,
    parts_of,
    put,
    structure_of,
)
from eckart.types import EckartError, Option


def replace(
    model: Any,
    name: str,
    option: Option,
    tensors: Mapping[str, Tensor | Rounded],
    inner: tuple[str, int] | None = None,
) -> dict[str, Tensor]:
    """Put a structure in the place of a linear layer or an embedding, in its dtype and on its device.

    What is tied to it gets the same tensors.

    Args:
        option: the structure and its size.
        tensors: what a fit gave, by the names of its parts.
        inner: as of the target.

    Returns:
        The tensors as the module now holds them, rounded to its dtype.
    """
    old = model.get_submodule(name)
    bias_before = getattr(old, "bias", None)
    learns = bool(old.weight.requires_grad)
    tied = vocabulary.siblings_of(model, name)
    scale = vocabulary.scale_among(model, [name, *tied])
    new = put_structure(model, name, tied, option.structure, option.size or 0, scale, inner)
    structure = structure_of(new)
    assert structure is not None
    with torch.no_grad():
        for part, values in tensors.items():
            if isinstance(values, Tensor):
                _tensor(new, part).copy_(values)
        if bias_before is not None:
            for part, values in structure.biases(float_tensors(new), bias_before).items():
                _tensor(new, part).copy_(values)
    new.requires_grad_(learns)
    for part, values in tensors.items():
        if not isinstance(values, Tensor):
            put_quantized(model, f"{name}.{part.removesuffix('.weight')}", values)
    if tied:
        share_indices(model)
    return float_tensors(new)


def share(model: Any, names: Sequence[str]) -> None:
    """Let the structures of one site, the first of them the leader, hold what they share as one tensor."""
    for name in names[1:]:
        model.get_submodule(name).leader = names[0]
    share_groups(model)


def entry_of(structure: Structure, size: int, leader: str | None, inner: Any = None) -> Any:
    """What `config.json` says of a structure's module, with the first of its site where that is another."""
    if leader is None and inner is None:
        return structure.entry(size)
    more = {"site": leader, "inner": None if inner is None else list(inner)}
    known = {key: value for key, value in more.items() if value is not None}
    return {"rank": size, "structure": structure.name, **known}


def _tensor(module: nn.Module, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(module.get_submodule(owner), leaf)
    return tensor


@torch.no_grad()
def merge(model: Any) -> list[str]:
    """Make a model dense again: what each structure stands for, in its dtype, in a plain layer.

    The layers are of the kind that the model has them of without Eckart, experts are in one tensor again, and
    its config says nothing of structures any more.

    Returns:
        The names of the modules that were structures, or quantized and are floats now.
    """
    replaced: dict[str, Any] = {}
    for name, module in model.named_modules():
        part = any(name.startswith(f"{other}.") for other in list(replaced)[-1:])
        if isinstance(module, (StructuredLinear, StructuredEmbedding, QuantizedLinear)) and not part:
            replaced[name] = module
    config = copy.deepcopy(model.config)
    undescribe(config)
    undescribe(model.config)
    if not replaced:
        roll(model)
        return []
    plain = empty_like(model, config)
    for name, module in replaced.items():
        weight, bias = dense_of(module)
        new = plain.get_submodule(name).to(module.weight.dtype).to_empty(device=weight.device)
        weight_of(new).copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
        if isinstance(module, StructuredEmbedding) and isinstance(getattr(new, "embed_scale", None), Tensor):
            new.embed_scale.fill_(module.scale)
        learns = any(parameter.requires_grad for parameter in module.parameters())
        learns = learns and not isinstance(module, QuantizedLinear)
        put(model, name, new.train(module.training).requires_grad_(learns))
    roll(model)
    untie(model)
    if any(isinstance(module, StructuredEmbedding) for module in replaced.values()):
        model.tie_weights(recompute_mapping=False)
    return list(replaced)


def dense_of(module: Any) -> tuple[Tensor, Tensor | None]:
    """The weight `(out, in)` and the bias that a structure's or a quantized module stands for, in float64."""
    structure = structure_of(module)
    if structure is None:
        return module.scaled().double(), module.bias
    return structure.dense(float_tensors(module), module.size)


def reweigh(model: Any, name: str, weight: Tensor) -> None:
    """Put a copy of a linear layer with another weight `(out, in)` in the place of the old one."""
    new = copy.deepcopy(model.get_submodule(name))
    weight_of(new).copy_(weight)
    put(model, name, new)


@contextmanager
def stand_ins(model: Any, weights: Iterable[tuple[str, Tensor]]) -> Iterator[None]:
    """Other values `(out, in)` in the weights of linear layers, and afterwards their own again."""
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for name, values in weights:
            weight = weight_of(model.get_submodule(name))
            before.append((weight, weight.clone()))
            weight.copy_(values)
        yield
    finally:
        for weight, values in before:
            weight.copy_(values)


def describe(model: Any) -> None:
    """Write into the model's config which modules are structures, so that saving it is enough to load it."""
    modules, led = _embeddings(model)
    for name, module in model.named_modules():
        structure = structure_of(module)
        if structure is not None and isinstance(module, StructuredLinear) and name not in led:
            modules[name] = entry_of(structure, module.size, module.leader, module.inner)
    retie(model)
    stacks, inner = stacks_of(model), inner_of(model)
    if modules or stacks or inner:
        save_by_own_names(model)
        model.config.quantization_config = EckartConfig(modules, experts=stacks, inner=inner)


def _embeddings(model: Any) -> tuple[dict[str, Any], set[str]]:
    """The entries of replaced embeddings, each by its first name, and the names that share their tensors."""
    entries: dict[str, Any] = {}
    led: set[str] = set()
    by_matrix: dict[int, dict[str, Any]] = {}
    modules = list(model.named_modules(remove_duplicate=False))
    for name, module in modules:
        if not isinstance(module, StructuredEmbedding):
            continue
        first = _first_matrix(module)
        if first in by_matrix:
            by_matrix[first]["tied"].append(name)
            led.add(name)
            continue
        entries[name] = {"rank": module.size, "structure": module.structure, "tied": []}
        if module.scale != 1:
            entries[name]["scale"] = module.scale
        by_matrix[first] = entries[name]
    for name, module in modules:
        if isinstance(module, StructuredLinear) and (first := _first_matrix(module)) in by_matrix:
            by_matrix[first]["tied"].append(name)
            led.add(name)
    return entries, led


def _first_matrix(module: Any) -> int:
    """What tells the tensors of a structure from another's: the identity of its first matrix."""
    name = next(name for name, part in parts_of(module).items() if part.role == "matrix")
    owner, _, leaf = name.rpartition(".")
    return id(module.get_submodule(owner)._parameters.get(leaf))


def empty_like(model: Any, config: Any) -> Any:
    """A model of the same class by another config, without weights, its experts as the model has them."""
    with torch.device("meta"):
        empty = type(model)(config)
    unroll(empty, stacks_of(model))
    return empty


def stacks_of(model: Any) -> list[str]:
    """The names of the expert tensors that were unrolled."""
    return [name for name, module in model.named_modules() if isinstance(module, ExpertStack)]


def undescribe(config: Any) -> None:
    """Take what `describe` wrote out of a config again."""
    entry = getattr(config, "quantization_config", None)
    if entry is not None and dict(entry).get("quant_method") == QUANT_METHOD:
        del config.quantization_config


def count_parameters(model: nn.Module) -> int:
    """Parameters of a model, tied weights once; of a quantized weight as many as it had floats."""
    rounded = sum(
        module.in_features * module.out_features
        for module in model.modules()
        if isinstance(module, QuantizedLinear)
    )
    return rounded + sum(parameter.numel() for parameter in model.parameters())


def count_bytes(model: nn.Module) -> int:
    """Bytes of what a model saves: parameters, tied once, and persistent buffers."""
    parameters = list(model.parameters())
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    buffers = [tensor for name, tensor in model.state_dict().items() if name not in names]
    return sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *buffers])


def require_finite(model: nn.Module) -> None:
    """Raises EckartError where a weight has an entry that is not finite; names the first such weight."""
    for name, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise EckartError(
                f"{name} has values that are not finite (NaN or infinity): the checkpoint is damaged"
            )
