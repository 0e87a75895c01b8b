"""Factors into modules, and counting what is there."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from eckart.model import vocabulary
from eckart.model.portable import (
    QUANT_METHOD,
    STRUCTURES,
    EckartConfig,
    ExpertStack,
    FactoredEmbedding,
    FactoredLinear,
    QuantizedLinear,
    embedding_like,
    retie,
    roll,
    unroll,
    untie,
)
from eckart.model.portable.embeddings import EMBEDDINGS, share_orders
from eckart.model.portable.structures import put
from eckart.model.quantizing import inner_of, values_of
from eckart.model.targets import weight_of
from eckart.types import EckartError, Factors


def replace(model: Any, name: str, factors: Factors) -> Factors:
    """Put factors in the place of a linear layer or an embedding, in its dtype and on its device.

    What is tied to it gets the same factors.

    Returns:
        The factors as the module now holds them, rounded to its dtype.
    """
    old = model.get_submodule(name)
    weight = weight_of(old)
    out_features, in_features = weight.shape
    rank = len(factors.V)
    tied = vocabulary.siblings_of(model, name)
    scale = vocabulary.scale_among(model, [name, *tied])
    new: Any = (
        embedding_like(old, factors.structure, rank, scale)
        if isinstance(old, nn.Embedding)
        else STRUCTURES[factors.structure](
            in_features, out_features, rank, old.bias is not None, weight.device, weight.dtype
        )
    )
    bias_before = getattr(old, "bias", None)
    with torch.no_grad():
        new.U.weight.copy_(factors.U)
        new.V.weight.copy_(factors.V)
        if factors.Q is not None:
            new.Q.weight.copy_(factors.Q)
        if factors.order is not None:
            new.order.copy_(factors.order)
            if bias_before is not None:
                bias = torch.empty_like(bias_before)
                bias[factors.order.long()] = bias_before
                new.V.bias.copy_(bias[:rank])
                carried = new.U.weight.double() @ new.V.bias.double()
                new.U.bias.copy_(bias[rank:].double() - carried)
        elif bias_before is not None:
            new.U.bias.copy_(bias_before)
    new.train(old.training).requires_grad_(old.weight.requires_grad)
    put(model, name, new)
    for other in tied:
        sibling = embedding_like(model.get_submodule(other), factors.structure, rank, scale, of=new)
        put(model, other, sibling.train(old.training))
    if tied:
        share_orders(model)
    return factors_of(new)


@torch.no_grad()
def merge(model: Any) -> list[str]:
    """Make a model dense again: the product of each pair of factors, in their dtype, in a plain layer.

    The layers are of the kind that the model has them of without Eckart, experts are in one tensor again, and
    its config says nothing of structures any more.

    Returns:
        The names of the modules that were factored, or quantized and are floats now.
    """
    factored: dict[str, Any] = {}
    for name, module in model.named_modules():
        part = name.rpartition(".")[0] in factored
        if isinstance(module, (FactoredLinear, FactoredEmbedding, QuantizedLinear)) and not part:
            factored[name] = module
    config = copy.deepcopy(model.config)
    undescribe(config)
    undescribe(model.config)
    if not factored:
        roll(model)
        return []
    with torch.device("meta"):
        plain = type(model)(config)
    unroll(plain, stacks_of(model))
    for name, module in factored.items():
        like = values_of(getattr(module, "V", module))
        new = plain.get_submodule(name).to(like.dtype).to_empty(device=like.device)
        weight, bias = _product(module)
        weight_of(new).copy_(weight)
        if bias is not None:
            new.bias.copy_(bias)
        if isinstance(module, FactoredEmbedding) and isinstance(getattr(new, "embed_scale", None), Tensor):
            new.embed_scale.fill_(module.scale)
        learns = isinstance(module, (FactoredLinear, FactoredEmbedding)) and module.U.weight.requires_grad
        put(model, name, new.train(module.training).requires_grad_(learns))
    roll(model)
    if any(isinstance(module, FactoredEmbedding) for module in factored.values()):
        untie(model)
        model.tie_weights(recompute_mapping=False)
    return list(factored)


def _product(module: Any) -> tuple[Tensor, Tensor | None]:
    """The weight `(out, in)` and the bias of a factored or quantized module, in float64."""
    if isinstance(module, QuantizedLinear):
        return module.scaled().double(), module.bias
    U, V = values_of(module.U).double(), values_of(module.V).double()
    bias = getattr(module.U, "bias", None)
    bias = None if bias is None else bias.double()
    if not hasattr(module, "order"):
        beside = values_of(module.Q).double() if hasattr(module, "Q") else 0
        return beside + U @ V, bias
    order = module.order.long()
    if bias is not None:
        kept = module.V.bias.double()
        bias = torch.cat([kept, U @ kept + bias])[order]
    return torch.cat([V, U @ V])[order], bias


def factors_of(module: Any) -> Factors:
    """The factors that a structure's module holds."""
    kinds = EMBEDDINGS if isinstance(module, FactoredEmbedding) else STRUCTURES
    structure = next(name for name, kind in kinds.items() if type(module) is kind)
    order = getattr(module, "order", None)
    Q = values_of(module.Q) if hasattr(module, "Q") else None
    return Factors(structure, values_of(module.U), values_of(module.V), order, Q)  # type: ignore[arg-type]


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
        for structure, kind in STRUCTURES.items():
            if type(module) is kind and name not in led:
                entry = (
                    module.rank if structure == "lowrank" else {"rank": module.rank, "structure": structure}
                )
                modules[name] = entry
    retie(model)
    stacks, inner = stacks_of(model), inner_of(model)
    if modules or stacks or inner:
        model.config.quantization_config = EckartConfig(modules, experts=stacks, inner=inner)


def _embeddings(model: Any) -> tuple[dict[str, Any], set[str]]:
    """The entries of factored embeddings, each by its first name, and the names that share their factors."""
    entries: dict[str, Any] = {}
    by_factor: dict[int, Any] = {}
    led: set[str] = set()
    modules = list(model.named_modules(remove_duplicate=False))
    for name, module in modules:
        if not isinstance(module, FactoredEmbedding):
            continue
        if id(module.U.weight) in by_factor:
            by_factor[id(module.U.weight)]["tied"].append(name)
            continue
        structure = next(name for name, kind in EMBEDDINGS.items() if type(module) is kind)
        entries[name] = {"rank": module.rank, "structure": structure, "tied": []}
        if module.scale != 1:
            entries[name]["scale"] = module.scale
        by_factor[id(module.U.weight)] = entries[name]
    for name, module in modules:
        if isinstance(module, FactoredLinear) and id(getattr(module.U, "weight", None)) in by_factor:
            by_factor[id(module.U.weight)]["tied"].append(name)
            led.add(name)
    return entries, led


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
