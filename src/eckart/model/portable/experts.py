"""Experts as linear layers of their own, where a model keeps the weights of all of them in one tensor."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from eckart.model.portable.swapping import find_module
from eckart.structures.registry import structure_of


class ExpertStack(nn.Module):
    """A linear layer for each expert, in the place of a parameter `(experts, out, in)`.

    A model's own code takes one expert's weight out of the parameter and multiplies by it. Of a stack it gets
    a stand-in, and the product becomes a call of that expert's layer, whatever that layer has become.

    Args:
        weights: the parameter; values are copied, and on the meta device there are none.
        transposed: whether it is `(experts, in, out)`, as where a model multiplies from the other side.
    """

    _is_hf_initialized = True
    """For transformers, which would fill a parameter here: there is none."""

    def __init__(self, weights: Tensor, transposed: bool = False) -> None:
        super().__init__()
        self.transposed = transposed
        for index, weight in enumerate(weights.detach().mT if transposed else weights.detach()):
            out_features, in_features = weight.shape
            linear = nn.Linear(in_features, out_features, bias=False, device="meta")
            linear.weight = nn.Parameter(
                weight.clone(memory_format=torch.contiguous_format), weights.requires_grad
            )
            self.add_module(str(index), linear)

    def __len__(self) -> int:
        return len(self._modules)

    def __getitem__(self, index: int | Tensor) -> ExpertWeight:
        return ExpertWeight(self.get_submodule(str(int(index))), self.transposed)

    def rolled(self) -> nn.Parameter:
        """The parameter that a stack of plain linear layers stands for."""
        layers: list[Any] = list(self.children())
        weights = torch.stack([layer.weight.detach() for layer in layers])
        learn = all(layer.weight.requires_grad for layer in layers)
        return nn.Parameter((weights.mT if self.transposed else weights).contiguous(), learn)


class ExpertWeight:
    """Stands for one expert's weight: `F.linear(x, weight)` or, transposed, `x @ weight` calls its module."""

    def __init__(self, module: nn.Module, transposed: bool) -> None:
        self.module, self.transposed = module, transposed

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = dict(zip(("input", "weight", "bias"), args, strict=False)) | (kwargs or {})
        weight = given.get("weight")
        wanted = (
            (torch.matmul, Tensor.matmul, Tensor.__matmul__)
            if isinstance(weight, cls) and weight.transposed
            else (nn.functional.linear,)
        )
        if func not in wanted or not isinstance(weight, cls):
            return NotImplemented
        y = weight.module(given["input"])
        return y if given.get("bias") is None else y + given["bias"]


class OneByOne:
    """The forward of a module of experts as its class wrote it: the kernels want a tensor of all."""

    def __init__(self, owner: nn.Module) -> None:
        self.owner = owner

    def __call__(self, *given: Any, **named: Any) -> Any:
        forward: Callable[..., Any] = inspect.unwrap(type(self.owner).forward)
        return forward(self.owner, *given, **named)


def unroll_in(owner: nn.Module, leaf: str) -> None:
    """Put an `ExpertStack` in the place of one parameter of a module of experts."""
    if isinstance(getattr(owner, leaf), ExpertStack):
        return
    stack = ExpertStack(getattr(owner, leaf), bool(getattr(owner, "is_transposed", False)))
    delattr(owner, leaf)
    setattr(owner, leaf, stack)
    owner.forward = OneByOne(owner)


def unroll(model: nn.Module, names: list[str]) -> None:
    """Make experts linear layers of their own, in place.

    From then on the model is saved by the names that it has in memory: what transformers would make of an
    expert's tensors on the way to disk knows nothing of layers.

    Args:
        names: of the parameters that hold the experts, as `model.layers.0.mlp.experts.gate_up_proj`.

    Raises:
        ValueError: the model has no such parameter.
    """
    for saved_name in names:
        saved_owner, _, leaf = saved_name.rpartition(".")
        owner = find_module(model, saved_owner)
        found = None if owner is None else getattr(model.get_submodule(owner), leaf, None)
        if owner is None or not (isinstance(found, ExpertStack) or (found is not None and found.ndim == 3)):
            raise ValueError(
                f"the config says that {saved_name!r} holds experts, but this {type(model).__name__} has no "
                "such tensor: load it by the class that it was saved from, or fetch the folder again"
            )
        unroll_in(model.get_submodule(owner), leaf)
    if names:
        save_by_own_names(model)


def save_by_own_names(model: nn.Module) -> None:
    """Let a model be saved by the names that it has in memory, where transformers would make other tensors.

    On the way to disk it puts experts, or queries, keys and values, together as its class's published
    checkpoints have them: of stacks it would find no weights, and of factors it would join what belongs to
    different layers.
    """
    if _has_stacks(model) or _joins_factors(model):
        if getattr(model, "_weight_conversions", None):
            model._rolled_conversions = model._weight_conversions
        model._weight_conversions = []  # type: ignore[assignment]


def _joins_factors(model: Any) -> bool:
    """Whether transformers would save a tensor of a structure as a part of another, or in parts."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightConverter

    changes = getattr(model, "_weight_conversions", None)
    changes = get_model_conversion_mapping(model) if changes is None else changes
    converters = [change.reverse_transform() for change in changes if isinstance(change, WeightConverter)]
    return any(
        converter.rename_source_key(f"{name}.{part}")[1] is not None
        for name, module in (model.named_modules() if converters else ())
        if structure_of(module) is not None
        for part in module.state_dict()
        for converter in converters
    )


def _has_stacks(model: nn.Module) -> bool:
    return any(isinstance(module, ExpertStack) for module in model.modules())


def roll(model: nn.Module) -> None:
    """Put the parameters back where stacks hold nothing but plain linear layers."""
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, ExpertStack)}
    for name, stack in stacks.items():
        if any(type(each) is not nn.Linear for each in stack.children()):
            continue
        owner_name, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        delattr(owner, leaf)
        setattr(owner, leaf, stack.rolled())
        if not any(isinstance(each, ExpertStack) for each in owner.children()):
            owner.__dict__.pop("forward", None)
    if stacks and not _has_stacks(model):
        # Without what it was loaded by, transformers works out what its class is saved by.
        model.__dict__.pop("_weight_conversions", None)
        if (loaded_by := model.__dict__.pop("_rolled_conversions", None)) is not None:
            model._weight_conversions = loaded_by
