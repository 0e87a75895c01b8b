"""Budgets in parameters and in bytes, and ranks that are given by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eckart import allocate
from eckart.estimate.prices import Prices
from eckart.linalg import largest_paying_rank, parameters
from eckart.types import CORRECTED, Curve, Recipe, Structure, Target, UsageError


def hand_ranks(targets: Sequence[Target], recipe: Recipe, prices: Prices) -> list[int | None]:
    """The rank given by hand, `None` for dense where it does not pay: in parameters, or in bytes alone."""
    if recipe.structure == CORRECTED:
        return [
            rank if prices.bytes(target, rank) < prices.bytes(target, None) else None
            for target, rank in zip(targets, fixed_ranks(targets, recipe), strict=True)
        ]
    known = parameter_curves(targets, recipe.structure)
    return [
        rank if rank < len(curve.costs) else None
        for rank, curve in zip(fixed_ranks(targets, recipe), known, strict=True)
    ]


def parameter_curves(targets: Sequence[Target], structure: Structure) -> list[Curve]:
    """What each target costs in parameters at each rank that pays."""
    found = []
    for target in targets:
        shape = (target.out_features, target.in_features)
        ranks = range(largest_paying_rank(structure, *shape) + 1)
        costs = np.array([parameters(structure, *shape, rank) for rank in ranks])
        found.append(Curve(costs, parameters("dense", *shape, 0)))
    return found


def require_possible(targets: Sequence[Target], recipe: Recipe, prices: Prices) -> int:
    """The parameters that the targets may have under `keep`, or the bytes under `size`.

    Raises:
        UsageError: it is less than the targets allow; says the least that is possible.
    """
    known = prices.curves(targets)
    dense = sum(curve.dense for curve in known)
    least = allocate.least(known)
    if recipe.size is not None:
        if recipe.size < prices.fixed + least:
            raise UsageError(
                f"size {said_bytes(recipe.size)} is smaller than the model can be: with every target at rank "
                f"1 it takes {prices.fixed + least:,} bytes; ask for that or more, or name more targets"
                + ("" if recipe.quantize else ", or --quantize them")
            )
        return recipe.size - prices.fixed
    base = 0 if recipe.of == "targets" else prices.fixed
    budget = int((recipe.keep or 1) * (base + dense) + 1e-9) - base
    if budget < least:
        lowest = (base + least) / (base + dense)
        over = "the targets" if recipe.of == "targets" else "the model"
        raise UsageError(
            f"keep {recipe.keep:g} is lower than {over} allows: with every target at rank 1, "
            f"{lowest:.4f} of {over} is left; ask for keep {_up(lowest)} or more"
            + ("" if recipe.of == "targets" else ", or name more targets")
        )
    return budget


def said_bytes(size: int) -> str:
    """A number of bytes for people, as `3 GB`."""
    unit, power = next(((u, p) for u, p in (("GB", 9), ("MB", 6), ("kB", 3)) if size >= 10**p), ("bytes", 0))
    return f"{size / 10**power:.4g} {unit}"


def fixed_ranks(targets: Sequence[Target], recipe: Recipe) -> list[int]:
    """The rank by hand of each target, whether or not it pays: `--rank`, or `--ratio` of the smaller side."""
    ranks = []
    for target in targets:
        smaller = min(target.out_features, target.in_features)
        wanted = recipe.rank if recipe.rank is not None else max(1, int((recipe.ratio or 0) * smaller))
        ranks.append(min(wanted, smaller))
    return ranks


def dense_notes(targets: Sequence[Target], recipe: Recipe, ranks: Sequence[int | None]) -> list[str]:
    """Why targets stay dense at a rank given by hand, grouped by shape."""
    if recipe.rank is None and recipe.ratio is None:
        return []
    groups: dict[tuple[int, int, int], int] = {}
    for target, wanted, rank in zip(targets, fixed_ranks(targets, recipe), ranks, strict=True):
        if rank is None:
            key = (target.out_features, target.in_features, wanted)
            groups[key] = groups.get(key, 0) + 1
    notes = []
    for (out_features, in_features, wanted), count in groups.items():
        if recipe.structure == CORRECTED:
            notes.append(
                f"{count} of the {out_features}x{in_features} weights stay dense: {recipe.quantize} and "
                f"factors of rank {wanted} take no fewer bytes"
            )
            continue
        cost = parameters(recipe.structure, out_features, in_features, wanted)
        note = (
            f"{count} of the {out_features}x{in_features} weights stay dense: {recipe.structure} at rank "
            f"{wanted} has {cost:,} parameters, dense has {out_features * in_features:,}"
        )
        if (
            recipe.structure == "lowrank"
            and largest_paying_rank("pivoted", out_features, in_features) >= wanted
        ):
            saved = 1 - parameters("pivoted", out_features, in_features, wanted) / (
                out_features * in_features
            )
            note += f"; --structure pivoted at this rank saves {saved:.1%}"
        notes.append(note)
    return notes


def _up(share: float) -> str:
    """`share` rounded up to four decimals, so that what the message offers is accepted."""
    return f"{np.ceil(share * 1e4) / 1e4:.4f}"
