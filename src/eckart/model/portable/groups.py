"""Structures of one site hold some of their tensors together: the first module is the others' leader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from eckart.structures.modules import StructuredLinear, parts_of


def share_groups(model: nn.Module, within: nn.Module | None = None) -> None:
    """Let the modules of a site hold what they share as one tensor, the leader's; again changes nothing.

    Args:
        within: the part of the model to look at; default all of it.
    """
    for module, part in _followers(within or model):
        owner, _, leaf = part.rpartition(".")
        leader = model.get_submodule(str(module.leader))
        setattr(module.get_submodule(owner), leaf, leader.get_parameter(part))


def group_ties(model: nn.Module, part: nn.Module) -> dict[str, str]:
    """What is shared within a part of a model: each tensor's name there to the name of the leader's."""
    names = {id(module): name for name, module in part.named_modules()}
    found = {}
    for module, tensor in _followers(part):
        leader = names.get(id(model.get_submodule(str(module.leader))))
        if leader is not None:
            found[f"{names[id(module)]}.{tensor}"] = f"{leader}.{tensor}"
    return found


def _followers(model: nn.Module) -> Iterator[tuple[Any, str]]:
    """Modules that share a tensor with their leader, with its name in them."""
    for module in model.modules():
        if isinstance(module, StructuredLinear) and module.leader is not None:
            for name, part in parts_of(module).items():
                if part.shared is not None:
                    yield module, name
