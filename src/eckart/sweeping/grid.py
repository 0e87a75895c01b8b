"""Which models a sweep tries: every ratio with every choice of layers and of kinds of matrix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from eckart import structures
from eckart.model import targets as targets_
from eckart.structures import Site
from eckart.types import Target, UsageError

DEFAULT_DEPTH = 12
"""Top layers that are tried where nobody says which: the last ones are those that LASER can cut."""
BEST = "best"


@dataclass(frozen=True)
class Place:
    """One model of the grid: what was asked for, and the rank of each weight that it comes to."""

    ratio: float
    layers: str
    targets: str
    ranks: dict[str, int]

    @property
    def label(self) -> str:
        """`RATIO:LAYERS`, and `:TARGETS` where they were named."""
        return ":".join(part for part in (f"{self.ratio:g}", self.layers, self.targets) if part)


@dataclass(frozen=True)
class Grid:
    """All places of a sweep, and the targets that any of them cuts, in the model's order."""

    targets: list[Target]
    places: list[Place]
    notes: list[str] = field(default_factory=list)

    def find(self, label: str) -> Place:
        """The place of that label; its targets may be left out where that is not ambiguous.

        Raises:
            UsageError: there is none, or more than one.
        """
        found = [p for p in self.places if p.label == label]
        found = found or [p for p in self.places if p.label.removesuffix(f":{p.targets}") == label]
        if len(found) == 1:
            return found[0]
        labels = [place.label for place in found or self.places]
        near = labels if found else get_close_matches(label, labels, 3, 0.3) or labels[:3]
        raise UsageError(
            f"--cell {label}: {'that is more than one' if found else 'no such cell'} of the sweep; "
            f"there are {', '.join(near[:3])} and so on"
        )


def make_grid(
    model: Any, ratios: Sequence[float], layers: Sequence[str] | None, targets: Sequence[str] | None
) -> Grid:
    """The places of a sweep of a model, which may be on the meta device.

    Args:
        ratios: rank as a share of the smaller side of each weight.
        layers: choices of blocks, each with `A..B` for one choice for each number; default `top:1` to
            `top:12`, or as far as the model goes.
        targets: choices of kinds, each names by comma; default all kinds together.

    Raises:
        UsageError: a choice that fits no weight.
    """
    kinds: dict[str, list[str] | None] = {each: _names(each) for each in targets or []}
    patterns = [name for names in kinds.values() for name in names or []]
    found = targets_.find_targets(model, patterns or None)
    notes = list(found.notes)
    deep = _depth(model, found.targets)
    if layers is None:
        layers = [f"top:1..{min(DEFAULT_DEPTH, deep)}"] if deep else [""]
    choices = list(dict.fromkeys(one for each in layers for one in _spelled_out(each, deep, notes)))
    places = []
    for kind, names in (kinds or {"": None}).items():
        chosen = {choice: targets_.choose(model, found.targets, names, choice or None) for choice in choices}
        places += [
            Place(ratio, choice, kind, {target.name: rank_at(ratio, target) for target in chosen[choice]})
            for ratio in ratios
            for choice in choices
        ]
    used = {name for place in places for name in place.ranks}
    return Grid([target for target in found.targets if target.name in used], places, notes)


def rank_at(ratio: float, target: Target) -> int:
    """The rank that is so large a share of a weight's smaller side, rounded down, at least 1."""
    return max(1, int(ratio * min(target.out_features, target.in_features)))


def left(total: int, targets: Sequence[Target], ranks: Mapping[str, int], structure: str) -> int:
    """Parameters of a model of `total` where some targets are at these ranks.

    Each is stored in the cheaper of its factors and their product.
    """
    return total - sum(
        target.out_features * target.in_features - cost(target, ranks[target.name], structure)
        for target in targets
        if target.name in ranks
    )


def cost(target: Target, rank: int, structure: str) -> int:
    """Parameters of one target at a rank, in the cheaper of its factors and their product."""
    dense = target.out_features * target.in_features
    return min(structures.find(structure).parameters(Site((target,)), rank), dense)


def _names(choice: str) -> list[str]:
    names = [name.strip() for name in choice.split(",") if name.strip()]
    if not names:
        raise UsageError("--targets is empty: name a kind of matrix, as q_proj,v_proj")
    return names


def _depth(model: Any, targets: Sequence[Target]) -> int:
    """Blocks of the deepest stack that holds a target."""
    stacks = {block[0] for target in targets if (block := targets_.block_of(model, target.name))}
    return max((len(model.get_submodule(stack)) for stack in stacks), default=0)


def _spelled_out(choice: str, deep: int, notes: list[str]) -> list[str]:
    """The choices that a range stands for, without those that ask for more layers than there are."""
    if choice and not choice.strip():
        raise UsageError("--layers is empty: say which blocks, as top:1..12")
    every = targets_.spelled_out(choice)
    if len(every) == 1:
        return every
    there = [one for one in every if not _beyond(one, deep)]
    if not there:
        raise UsageError(f"--layers {choice}: the model has {deep} blocks")
    if gone := [one for one in every if one not in there]:
        many = f"{gone[0]} to {gone[-1]} are" if len(gone) > 1 else f"{gone[0]} is"
        notes.append(f"{many} left out: the model has {deep} blocks")
    return there


def _beyond(choice: str, deep: int) -> bool:
    return any(int(count) > deep for count in re.findall(r"(?:top|bottom):(\d+)", choice))
