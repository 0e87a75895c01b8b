"""The inner channels of a model's MLPs: which weights write and read them, and a model with fewer of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from eckart.model import probe
from eckart.model import targets as targets_
from eckart.model.portable import roll
from eckart.model.replacing import empty_like, undescribe
from eckart.model.targets import weight_of
from eckart.structures import NarrowLinear, find, put
from eckart.types import Target, UsageError

UNSET = re.compile(r"inner|intermediate|ffn|feed_forward")
"""Names of what a config may leave out, to be a multiple of the model's width."""
TOLD = "give --targets that leave them out, or another --structure"


def find_targets(
    model: Any, patterns: Sequence[str] | None, layers: str | None, structures: Sequence[str]
) -> targets_.Found:
    """As `targets.find_targets`, with the inner channels of MLPs where one of the structures is made of them.

    Raises:
        UsageError: as there, or a target shares channels with a weight that is no target.
    """
    found = targets_.find_targets(model, patterns, layers)
    if any(find(name).channels for name in structures):
        found.targets = with_channels(model, found.targets)
    return found


@dataclass(frozen=True)
class Width:
    """A number in a config that says how many inner channels there are.

    Attributes:
        path: of the part of the config that it is in, and its own name.
        value: it, or what it comes to where the config leaves it out.
        sides: of each weight that depends on it, whether it writes channels, `outputs`, or reads, `inputs`.
    """

    path: tuple[str, ...]
    value: int
    sides: dict[str, str]

    def set(self, config: Any, value: int) -> None:
        """Write another number into a config."""
        *owners, name = self.path
        for owner in owners:
            config = getattr(config, owner)
        setattr(config, name, value)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The weights that write the channels which each reader reads, by the reader's name."""
        # A mixture has thousands: only those of one owner are compared.
        owners: dict[tuple[str, ...], list[str]] = {}
        for name, side in self.sides.items():
            parts = tuple(name.split("."))
            for depth in range(len(parts)) if side == "inputs" else ():
                owners.setdefault(parts[:depth], []).append(name)
        found: dict[str, list[str]] = {}
        for name, side in self.sides.items():
            if side == "outputs":
                parts = tuple(name.split("."))
                near = next(parts[:depth] for depth in reversed(range(len(parts))) if parts[:depth] in owners)
                reader = max(owners[near], key=lambda other: _alike(other.split(".")[::-1], parts[::-1]))
                found.setdefault(reader, []).append(name)
        return found


def with_channels(model: Any, targets: Sequence[Target]) -> list[Target]:
    """The targets, each with the inner channels that it writes or reads.

    What depends on a width is found by building the model anew, without weights, from a config with another
    number: no name of a layer is known. The model may be on the meta device itself.

    Raises:
        UsageError: a target shares channels with a weight that is no target.
    """
    known = {target.name: target for target in targets}
    found = dict(known)
    for width in widths(model):
        for reader, writers in width.groups.items():
            names = [*writers, reader]
            there = [name for name in names if name in known]
            if there and len(there) < len(names):
                missing = next(name for name in names if name not in known)
                raise UsageError(
                    f"{there[0]} cannot be narrowed by itself: {missing} has the same channels; name both in "
                    "--targets, or neither"
                )
            for name in there:
                found[name] = replace(known[name], inner=(width.sides[name], width.value), group=reader)
    return [found[target.name] for target in targets]


def widths(model: Any) -> list[Width]:
    """Every number in the model's config that inner channels of MLPs, and nothing else, depend on."""
    linears = {name: tuple(weight_of(module).shape) for name, module in _linears(model)}
    config = copy.deepcopy(model.config)
    undescribe(config)
    base = _shapes(model, config)
    if base is None:
        return []
    shapes = partial(_shapes, model)
    found: list[Width] = []
    for path, value in _numbers(config):
        taken = {name for each in found for name in each.sides}
        for width in [value] if value else _unset(linears):
            sides = _depending(shapes, config, Width(path, width, {}), base, linears)
            if sides and taken.isdisjoint(sides):
                found.append(Width(path, width, sides))
                break
    return found


def require_elementwise(model: Any, targets: Sequence[Target]) -> None:
    """Ask the model whether its channels are independent: in another order they give the same answer.

    Raises:
        UsageError: they are not, or the model answers no question.
    """
    groups: dict[str, list[Target]] = {}
    for target in targets:
        if target.group is not None:
            groups.setdefault(target.group, []).append(target)
    if not groups:
        return
    question = probe.question_of(model)
    before = probe.answers(model, question)
    undo = []
    chance = torch.Generator().manual_seed(0)
    try:
        for members in groups.values():
            assert members[0].inner is not None
            order = torch.randperm(members[0].inner[1], generator=chance)
            for target in members:
                module = model.get_submodule(target.name)
                undo.append((module, target, order.argsort()))
                _reorder(module, target, order)
        after = probe.answers(model, question)
    finally:
        for module, target, order in undo:
            _reorder(module, target, order)
    differ = probe.differences(after, before)
    if not differ:
        raise UsageError(
            f"{type(model).__name__} answers no question, so whether its MLPs can be narrowed is unknown; "
            "try another --structure"
        )
    # Rounding, where sums are added up in another order.
    if max(differ.values()) > probe.tolerance(str(model.dtype).removeprefix("torch.")):
        raise UsageError(
            f"the inner channels of {type(model).__name__}'s MLPs depend on each other: in another order "
            f"they give another answer. They cannot be narrowed; {TOLD}"
        )


def make_plain(model: Any) -> list[str]:
    """Make a model whose MLPs are equally narrow a plain one in place, with another number in its config.

    Returns:
        What was changed there, in words; nothing where the model stays as it is: it has MLPs that are wider
        than others, or none that is narrow.
    """
    narrow = {name: module for name, module in model.named_modules() if isinstance(module, NarrowLinear)}
    if not narrow:
        return []
    config = copy.deepcopy(model.config)
    changes = []
    for width in widths(model):
        sizes = {getattr(narrow.get(name), "size", None) for name in width.sides}
        if sizes == {None}:
            continue
        size = sizes.pop()
        if sizes or size is None:
            return []
        width.set(config, size)
        changes.append((width, size))
    if not _rebuilt(model, config, narrow, changes):
        return []
    said = [f"{'.'.join(width.path)} {width.value:,} -> {size:,}" for width, size in changes]
    return [f"a plain model, with nothing of Eckart in it: {', '.join(said)}"]


def _rebuilt(model: Any, config: Any, narrow: dict[str, Any], changes: list[tuple[Width, int]]) -> bool:
    plain = empty_like(model, config)
    made: dict[str, Any] = {}
    for name, old in narrow.items():
        new = plain.get_submodule(name)
        linear = old.linear
        if tuple(weight_of(new).shape) != tuple(linear.weight.shape):
            return False
        made[name] = (new, linear)
    for name, (empty, linear) in made.items():
        new = empty.to(linear.weight.dtype).to_empty(device=linear.weight.device)
        with torch.no_grad():
            weight_of(new).copy_(linear.weight)
            if linear.bias is not None:
                new.bias.copy_(linear.bias)
        put(model, name, new.train(narrow[name].training).requires_grad_(linear.weight.requires_grad))
    # Some modules keep the number that they were built with.
    built = dict(plain.named_modules())
    for name, module in model.named_modules():
        for key, value in vars(built.get(name, module)).items():
            if isinstance(value, int) and not isinstance(value, bool) and vars(module).get(key) != value:
                vars(module)[key] = value
    for width, size in changes:
        width.set(model.config, size)
    roll(model)
    return True


def _reorder(module: Any, target: Target, order: Tensor) -> None:
    assert target.inner is not None
    side, width = target.inner
    with torch.no_grad():
        weight = weight_of(module)
        order = order.to(weight.device)
        if side == "inputs":
            weight.copy_(weight[:, order].clone())
            return
        rows = torch.cat([order + start for start in range(0, weight.shape[0], width)])
        weight.copy_(weight[rows].clone())
        if module.bias is not None:
            module.bias.copy_(module.bias[rows].clone())


def _numbers(config: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int | None]]:
    """Whole numbers of a config, and what may be left out of it, with where they are."""
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig):
            yield from _numbers(value, (*path, name))
        elif isinstance(value, int) and not isinstance(value, bool) and value > 1:
            yield (*path, name), value
        elif value is None and UNSET.search(name):
            yield (*path, name), None


def _unset(linears: dict[str, tuple[int, ...]]) -> list[int]:
    """What a number that is left out may come to: the widths of what is read."""
    return list(dict.fromkeys(shape[1] for shape in linears.values()))


def _depending(
    shapes: Callable[[Any], dict[str, tuple[int, ...]] | None],
    config: Any,
    width: Width,
    base: dict[str, tuple[int, ...]],
    linears: dict[str, tuple[int, ...]],
) -> dict[str, str]:
    """On which side each weight has the channels that a number counts; nothing where more depends on it."""
    value = width.value
    if not any(value == shape[1] for shape in linears.values()):
        return {}
    other = value // 2 if value % 2 == 0 else value - 1
    if width.value != _at(config, width.path) and shapes(_changed(config, width, value)) != base:
        return {}
    now = shapes(_changed(config, width, other))
    if now is None or now.keys() != base.keys():
        return {}
    sides = {}
    for key, shape in base.items():
        if now[key] == shape:
            continue
        name, _, leaf = key.rpartition(".")
        if name not in linears:
            return {}
        if leaf == "bias":
            continue
        (rows, columns), (fewer, narrower) = linears[name], _as_stored(linears[name], shape, now[key])
        if columns == value and narrower == other and rows == fewer:
            sides[name] = "inputs"
        elif rows % value == 0 and fewer == rows // value * other and columns == narrower:
            sides[name] = "outputs"
        else:
            return {}
    return sides if set(sides.values()) == {"inputs", "outputs"} else {}


def _as_stored(linear: tuple[int, ...], shape: tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    """A shape as `(out, in)`, where it is stored so or the other way round."""
    return now if shape == linear else now[::-1]


def _at(config: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        config = getattr(config, name)
    return config


def _changed(config: Any, width: Width, value: int) -> Any:
    changed = copy.deepcopy(config)
    width.set(changed, value)
    return changed


def _shapes(model: Any, config: Any) -> dict[str, tuple[int, ...]] | None:
    """Shapes of all parameters of the model of another config; `None` where none can be built."""
    try:
        other = empty_like(model, config)
    except Exception:  # code of any architecture, on a number that it may not allow
        return None
    return {name: tuple(each.shape) for name, each in other.named_parameters()}


def _linears(model: Any) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(module, NarrowLinear):
            yield name, nn.Linear(module.in_features, module.out_features, False, device="meta")
        elif isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
            yield name, module


def _alike(one: Sequence[str], other: Sequence[str]) -> int:
    """How many of the first words are the same."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
