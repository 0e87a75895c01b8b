"""Which tensors of a model hold the weights of experts, and whether each can be a linear layer of its own."""

from __future__ import annotations

import copy
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from eckart.model.portable.experts import ExpertStack, OneByOne, unroll_in

FEW = 3
"""Experts that are asked."""


@dataclass
class Stacks:
    """The expert tensors of a model.

    Attributes:
        sizes: name of each that can be unrolled to the number of its experts.
        others: name of each that cannot to the number of its entries.
    """

    sizes: dict[str, int] = field(default_factory=dict)
    others: dict[str, int] = field(default_factory=dict)

    def members(self) -> list[str]:
        """The names that experts have as layers, as `….experts.down_proj.0`."""
        return [member for name in self.sizes for member in self.members_of(name)]

    def members_of(self, name: str) -> list[str]:
        """Those of one tensor."""
        return [f"{name}.{index}" for index in range(self.sizes[name])]

    def notes(self) -> list[str]:
        """What stays dense, in words."""
        grouped: dict[str, list[int]] = defaultdict(list)
        for name, size in self.others.items():
            grouped[re.sub(r"\.\d+\.", ".*.", name)].append(size)
        return [
            f"{name} ({len(sizes)} three-dimensional tensors, {sum(sizes):,} parameters) stays dense: its "
            "model does not multiply by one matrix of it at a time, as by one expert's"
            for name, sizes in grouped.items()
        ]


def find_stacks(model: nn.Module) -> Stacks:
    """The expert tensors of a model, without those that are unrolled; it may be on the meta device."""
    stacks = Stacks()
    answers: dict[Any, bool] = {}
    for name, owner in model.named_modules():
        tensors = {
            leaf: each
            for leaf, each in owner.named_parameters(recurse=False)
            if each.ndim == 3 and min(each.shape) > 1
        }
        if not tensors or isinstance(owner, nn.modules.conv._ConvNd):
            continue
        shapes = tuple((leaf, tuple(each.shape)) for leaf, each in owner.named_parameters(recurse=False))
        key = type(owner), shapes
        if any(isinstance(child, ExpertStack) for child in owner.children()):
            # It was asked before one of its tensors was unrolled.
            answers[key] = True
        if key not in answers:
            answers[key] = answers_by_expert(owner, list(tensors))
        for leaf, tensor in tensors.items():
            full = f"{name}.{leaf}" if name else leaf
            if answers[key]:
                stacks.sizes[full] = len(tensor)
            else:
                stacks.others[full] = tensor.numel()
    return stacks


def is_expert(model: nn.Module, name: str) -> bool:
    """Whether a module is one of a stack of experts: such a one is handed some of the tokens only."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), ExpertStack)


@torch.no_grad()
def answers_by_expert(owner: nn.Module, leaves: list[str]) -> bool:
    """Whether a module of experts says the same once these parameters are unrolled.

    It is asked with a few experts of few numbers, in the proportions of its own: their code is the same.
    """
    tensors = dict(owner.named_parameters(recurse=False))
    if len({len(tensors[leaf]) for leaf in leaves}) != 1:
        return False
    widths = {size for each in tensors.values() for size in each.shape[1:]}
    unit = math.gcd(*widths)
    generator = torch.Generator().manual_seed(0)
    small = {
        leaf: nn.Parameter(
            torch.randn(
                min(FEW, len(each)), *(4 * size // unit for size in each.shape[1:]), generator=generator
            )
        )
        for leaf, each in tensors.items()
    }
    few = len(small[leaves[0]])
    index = torch.arange(4 * few).reshape(-1, 1) % few
    share = torch.rand(index.shape, generator=generator)
    for width in sorted({4 * size // unit for leaf in leaves for size in tensors[leaf].shape[1:]}):
        x = torch.randn(len(index), width, generator=generator)
        asked = copy.copy(owner)
        asked.__dict__ = {**owner.__dict__, "_parameters": dict(small), "_modules": dict(owner._modules)}
        try:
            expected = OneByOne(asked)(x, index, share)
            for leaf in leaves:
                unroll_in(asked, leaf)
            called = _calls(asked, leaves)
            answer = asked(x, index, share)
        except Exception:  # code of any kind, on widths that it may not expect
            continue
        return len(called) == few * len(leaves) and torch.allclose(answer, expected, rtol=1e-4, atol=1e-4)
    return False


def _calls(asked: nn.Module, leaves: list[str]) -> set[str]:
    """The names of the experts' layers that are called from now on."""
    called: set[str] = set()

    def see(name: str) -> Any:
        return lambda module, arguments: called.add(name)

    for leaf in leaves:
        for index, linear in asked.get_submodule(leaf).named_children():
            linear.register_forward_pre_hook(see(f"{leaf}.{index}"))
    return called
