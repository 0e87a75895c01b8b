"""From what was asked for to a recipe, and from a recipe to ranks: shared by `plan` and `compress`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import numpy as np

from eckart import allocate, recipes
from eckart.linalg import largest_paying_rank, parameters
from eckart.types import MAX_LENGTH, SAMPLES, Curve, Recipe, Spectrum, Structure, Target, UsageError

DIALS = ("keep", "rank", "ratio")


def make_recipe(
    *,
    method: str | None = None,
    metric: str | None = None,
    structure: str | None = None,
    allocation: str | None = None,
    keep: float | None = None,
    of: str = "model",
    rank: int | None = None,
    ratio: float | None = None,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    data: str | None = None,
    samples: int = SAMPLES,
    max_length: int = MAX_LENGTH,
) -> Recipe:
    """Fill the four axes from a method's row where they were not named, and check every value.

    Without a method: `svd-llm` with data, `svd` without.

    Raises:
        UsageError: a value that does not exist, no dial or more than one, or a missing data file.
    """
    row = recipes.find_method(method or ("svd-llm" if data else "svd"))
    recipe_metric = metric or row.metric
    recipe_structure = structure or row.structure
    recipe_allocation = allocation or row.allocation
    recipes.find_metric(recipe_metric)
    structures = [name for name in get_args(Structure) if name != "dense"]
    if recipe_structure not in structures:
        raise UsageError(recipes.unknown("structure", recipe_structure, structures))
    if recipe_allocation not in allocate.ALLOCATORS:
        raise UsageError(recipes.unknown("allocation", recipe_allocation, allocate.ALLOCATORS))
    if of not in ("model", "targets"):
        raise UsageError(f"--of {of}: keep is counted over the model or over the targets")
    _check_dials(keep, rank, ratio, samples, max_length)
    if recipes.moments_of(recipe_metric) and data is None:
        raise UsageError(
            f"{row.name if metric is None else metric} needs data to weigh errors by: give --data FILE "
            "(.jsonl, .txt, .csv) with text like the model's own use; svd needs none"
        )
    return Recipe(
        method=row.name,
        metric=recipe_metric,
        structure=recipe_structure,  # type: ignore[arg-type]
        allocation=recipe_allocation,
        recovery=row.recovery,
        keep=keep,
        of=of,  # type: ignore[arg-type]
        rank=rank,
        ratio=ratio,
        targets=list(targets) if targets else None,
        layers=layers,
        data=data,
        samples=samples,
        max_length=max_length,
    )


def curves(targets: Sequence[Target], recipe: Recipe, spectra: Sequence[Spectrum] | None) -> list[Curve]:
    """What each target costs, and with spectra what it loses, at each rank that pays."""
    found = []
    for index, target in enumerate(targets):
        shape = (target.out_features, target.in_features)
        ranks = range(largest_paying_rank(recipe.structure, *shape) + 1)
        costs = np.array([parameters(recipe.structure, *shape, rank) for rank in ranks])
        errors = None
        if spectra is not None:
            tail = spectra[index].tail
            # Energies of different targets are in different units; their shares compare.
            errors = tail[: len(costs)] / (tail[0] or 1.0)
        found.append(Curve(costs, parameters("dense", *shape, 0), errors))
    return found


def choose_ranks(
    targets: Sequence[Target], recipe: Recipe, fixed: int, spectra: Sequence[Spectrum] | None = None
) -> list[int | None]:
    """The rank of each target, `None` for dense.

    Args:
        fixed: parameters of the model that no target holds.

    Raises:
        UsageError: keep is lower than the targets allow; says the least that is possible.
    """
    known = curves(targets, recipe, spectra)
    if recipe.keep is None:
        return [
            rank if rank < len(curve.costs) else None
            for rank, curve in zip(fixed_ranks(targets, recipe), known, strict=True)
        ]
    budget = require_possible(targets, recipe, fixed)
    if recipe.keep == 1:
        return [None] * len(targets)
    return allocate.ALLOCATORS[recipe.allocation](known, budget)


def require_possible(targets: Sequence[Target], recipe: Recipe, fixed: int) -> int:
    """The parameters that the targets may have under `keep`.

    Raises:
        UsageError: keep is lower than the targets allow; says the least that is possible.
    """
    known = curves(targets, recipe, None)
    dense = sum(curve.dense for curve in known)
    base = 0 if recipe.of == "targets" else fixed
    budget = int((recipe.keep or 1) * (base + dense) + 1e-9) - base
    least = allocate.least(known)
    if budget < least:
        lowest = (base + least) / (base + dense)
        over = "the targets" if recipe.of == "targets" else "the model"
        raise UsageError(
            f"keep {recipe.keep:g} is lower than {over} allows: with every target at rank 1, "
            f"{lowest:.4f} of {over} is left; ask for keep {_up(lowest)} or more"
            + ("" if recipe.of == "targets" else ", or name more targets")
        )
    return budget


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
    if recipe.keep is not None:
        return []
    groups: dict[tuple[int, int, int], int] = {}
    for target, wanted, rank in zip(targets, fixed_ranks(targets, recipe), ranks, strict=True):
        if rank is None:
            key = (target.out_features, target.in_features, wanted)
            groups[key] = groups.get(key, 0) + 1
    notes = []
    for (out_features, in_features, wanted), count in groups.items():
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


def _check_dials(
    keep: float | None, rank: int | None, ratio: float | None, samples: int, max_length: int
) -> None:
    given = [name for name, value in zip(DIALS, (keep, rank, ratio), strict=True) if value is not None]
    if len(given) != 1:
        had = f"{' and '.join('--' + name for name in given)} were given" if given else "none was given"
        raise UsageError(f"say how small by exactly one of --keep, --rank, --ratio: {had}")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"keep {keep:g} is not a share of the parameters: it is above 0 and at most 1")
    if ratio is not None and not 0 < ratio <= 1:
        raise UsageError(f"ratio {ratio:g} is not a share of the smaller side: it is above 0 and at most 1")
    if rank is not None and rank < 1:
        raise UsageError(f"rank {rank} is not a rank: it is 1 or more")
    if samples < 1 or max_length < 1:
        raise UsageError("--samples and --max-length are 1 or more")


def _up(share: float) -> str:
    """`share` rounded up to four decimals, so that what the message offers is accepted."""
    return f"{np.ceil(share * 1e4) / 1e4:.4f}"
