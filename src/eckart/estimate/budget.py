"""Budgets in parameters and in bytes, and sizes that are given by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eckart import allocate, structures
from eckart.estimate.prices import Prices
from eckart.structures import Site
from eckart.types import Option, Recipe, UsageError


def options_by_hand(sites: Sequence[Site], recipe: Recipe, prices: Prices) -> list[Option]:
    """The option of the size given by hand for each site, dense where it does not pay.

    It pays in parameters, or for a structure that has more of them in bytes.
    """
    dense = prices.dense()
    found = []
    for site, option in zip(sites, _asked(sites, recipe, prices), strict=True):
        count = prices.parameters if structures.find(option.structure).fewer else prices.bytes
        possible = not site.dense and option.size in structures.find(option.structure).sizes(site)
        found.append(option if possible and count(site, option) < count(site, dense) else dense)
    return found


def require_possible(sites: Sequence[Site], recipe: Recipe, prices: Prices) -> int:
    """The parameters that the targets may have under `keep`, or the bytes under `size`.

    Raises:
        UsageError: it is less than the targets allow; says the least that is possible.
    """
    known = prices.curves(sites)
    dense = sum(curve.dense for curve in known)
    least = allocate.least(known)
    smallest = "with every target at rank 1"
    if recipe.goal == "speed":
        smallest = (
            "--for speed leaves dense what is no faster on this machine, and with every other at rank 1"
        )
    if recipe.size is not None:
        if recipe.size < prices.fixed + least:
            raise UsageError(
                f"size {said_bytes(recipe.size)} is smaller than the model can be: {smallest} it takes "
                f"{prices.fixed + least:,} bytes; ask for that or more, or name more targets"
                + ("" if recipe.quantize else ", or --quantize them")
            )
        return recipe.size - prices.fixed
    base = 0 if recipe.of == "targets" else prices.fixed
    budget = int((recipe.keep or 1) * (base + dense) + 1e-9) - base
    if budget < least:
        lowest = (base + least) / (base + dense)
        over = "the targets" if recipe.of == "targets" else "the model"
        raise UsageError(
            f"keep {recipe.keep:g} is lower than {over} allows: {smallest}, "
            f"{lowest:.4f} of {over} is left; ask for keep {_up(lowest)} or more"
            + ("" if recipe.of == "targets" else ", or name more targets")
        )
    return budget


def said_bytes(size: int) -> str:
    """A number of bytes for people, as `3 GB`."""
    unit, power = next(((u, p) for u, p in (("GB", 9), ("MB", 6), ("kB", 3)) if size >= 10**p), ("bytes", 0))
    return f"{size / 10**power:.4g} {unit}"


def dense_notes(
    sites: Sequence[Site], recipe: Recipe, prices: Prices, options: Sequence[Option]
) -> list[str]:
    """Why sites stay dense: at a size given by hand, grouped by shape; or since no factors are faster."""
    if recipe.goal == "speed":
        return _speed_notes(sites, prices)
    if not recipe.by_hand:
        return []
    groups: dict[tuple[tuple[tuple[int, int], ...], Option], list[Site]] = {}
    for site, wanted, option in zip(sites, _asked(sites, recipe, prices), options, strict=True):
        if option.structure == "dense" and not site.dense:
            shapes = tuple((target.out_features, target.in_features) for target in site.targets)
            groups.setdefault((shapes, wanted), []).append(site)
    return [_dense_note(len(members), members[0], wanted, prices) for (_, wanted), members in groups.items()]


def _speed_notes(sites: Sequence[Site], prices: Prices) -> list[str]:
    """Up to which size each shape is faster than dense."""
    found: dict[str, None] = {}
    for site in sites:
        for name in prices.structures if not site.dense else ():
            structure = structures.find(name)
            if (most := prices.fastest(structure, site)) is not None:
                (target,) = site.targets
                up_to = f"up to {structure.size_name} {most}" if most else "at none"
                found[f"{name} {up_to} of {target.out_features}x{target.in_features}"] = None
    if not found:
        return []
    return [f"for speed, what is no faster than dense on this machine is not chosen: {', '.join(found)}"]


def _dense_note(count: int, site: Site, wanted: Option, prices: Prices) -> str:
    """Why sites like this one stay dense, and what would be smaller at this size."""
    shapes = " and ".join(f"{target.out_features}x{target.in_features}" for target in site.targets)
    structure = structures.find(wanted.structure)
    said = f"{structure.size_name} {wanted.size}"
    note = f"{count} of the {shapes} weights stay dense: "
    if not structure.fewer:
        return f"{note}{wanted.bits} and factors of {said} take no fewer bytes"
    dense = prices.parameters(site, Option(structure="dense"))
    count = prices.parameters(site, wanted)
    note += f"{wanted.structure} at {said} has {count:,} parameters, dense has {dense:,}"
    for name in structures.replacements():
        other = structures.find(name)
        if structure.spectral and other.spectral and wanted.size in other.sizes(site):
            saved = 1 - prices.parameters(site, Option(structure=name, size=wanted.size)) / dense
            note += f"; --structure {name} at this rank saves {saved:.1%}"
    return note


def _asked(sites: Sequence[Site], recipe: Recipe, prices: Prices) -> list[Option]:
    """The option that `--rank`, or `--ratio` of the smaller side, asks for, whether or not it pays."""
    found = []
    for site in sites:
        structure = structures.find(prices.structures[0])
        smaller = min(
            structure.largest(target) if structure.channels else min(target.out_features, target.in_features)
            for target in site.targets
        )
        wanted = recipe.rank if recipe.rank is not None else max(1, int((recipe.ratio or 0) * smaller))
        size = min(wanted, smaller)
        found.append(Option(structure=prices.structures[0], size=size, bits=prices.bits[-1]))
    return found


def _up(share: float) -> str:
    """`share` rounded up to four decimals, so that what the message offers is accepted."""
    return f"{np.ceil(share * 1e4) / 1e4:.4f}"
