"""From what was asked for to a recipe, and from a recipe to ranks: shared by `plan` and `compress`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Any, get_args

from pydantic import ValidationError

from eckart import allocate, recipes, structures
from eckart.structures import Structure
from eckart.types import (
    MAX_LENGTH,
    Quantize,
    Recipe,
    Selection,
    UsageError,
    unknown,
)

DIALS = ("keep", "max-loss", "energy", "rank", "ratio", "size")
MEASURED = ("measured", "auto")
"""Allocations that run the model on held-out data."""
LEARNED = "learned"
"""The allocation that comes out of training, where recovery is one of `recipes.SELECTIONS`."""
ALLOCATIONS = (*allocate.ALLOCATORS, *MEASURED, LEARNED)
RECOVERIES = ("none", "refit", *recipes.SELECTIONS)
QUANTIZE = get_args(Quantize)


def make_recipe(
    *,
    method: str | None = None,
    metric: str | None = None,
    structure: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    keep: float | None = None,
    max_loss: float | None = None,
    energy: float | None = None,
    of: str = "model",
    rank: int | None = None,
    ratio: float | None = None,
    size: int | None = None,
    quantize: str | None = None,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    data: str | None = None,
    samples: int | None = None,
    max_length: int = MAX_LENGTH,
    selection: Mapping[str, Any] | None = None,
) -> Recipe:
    """Fill the four axes from a method's row where they were not named, and check every value.

    Without a method: `auto`; where ranks are given by hand, `svd-llm` with data and `svd` without. What
    `auto` has no data for becomes plain: identity metric, uniform ranks, no refit. For `quantized+lowrank`
    it is `caldera` with data and `svd` without, and int4 where nothing is said of bits.

    Raises:
        UsageError: a value that does not exist, no dial or more than one, or a missing data file.
    """
    by_hand = rank is not None or ratio is not None
    asked = _known_structures(structure) if structure else []
    row = recipes.find_method(method or _usual_method(asked, by_hand, data is not None))
    if row.name == "auto" and data is None:
        row = replace(row, metric="identity", allocation="uniform", recovery="none")
    recipe_metric = metric or row.metric
    recipe_structure = structure or row.structure
    recipe_recovery = recovery or row.recovery
    chosen = _known_structures(recipe_structure)
    quantize = quantize or row.quantize or ("int4" if all(each.needs_bits for each in chosen) else None)
    recipe_allocation = allocation or (LEARNED if recipe_recovery in recipes.SELECTIONS else row.allocation)
    weighed_by = recipes.find_metric(recipe_metric)
    for kind, value, known in (
        ("allocation", recipe_allocation, ALLOCATIONS),
        ("recovery", recipe_recovery, RECOVERIES),
    ):
        if value not in known:
            raise UsageError(unknown(kind, value, known))
    selected = make_selection(selection or {}, recipe_allocation, recipe_recovery, keep)
    if of not in ("model", "targets"):
        raise UsageError(f"--of {of}: keep is counted over the model or over the targets")
    for bits in quantize.split(",") if quantize else ():
        if bits not in (*QUANTIZE, "none"):
            raise UsageError(unknown("quantize", bits, QUANTIZE))
    _check_dials((keep, max_loss, energy, rank, ratio, size), samples, max_length)
    _check_structures(chosen, keep, selected)
    needs = {
        row.name if metric is None else metric: bool(weighed_by.moments),
        f"allocation {recipe_allocation}": recipe_allocation in MEASURED,
        f"recovery {recipe_recovery}": recipe_recovery != "none",
        "--max-loss": max_loss is not None,
    }
    for what, needed in needs.items():
        if needed and data is None:
            raise UsageError(
                f"{what} needs data: give --data FILE (.jsonl, .txt, .csv) with text like the model's own "
                "use; svd needs none"
            )
    return Recipe(
        method=row.name,
        metric=recipe_metric,
        structure=recipe_structure,
        allocation=recipe_allocation,
        recovery=recipe_recovery,
        selection=selected,
        keep=keep,
        max_loss=max_loss,
        energy=energy,
        of=of,  # type: ignore[arg-type]
        rank=rank,
        ratio=ratio,
        size=size,
        quantize=quantize,
        targets=list(targets) if targets else None,
        layers=layers,
        data=data,
        samples=samples,
        max_length=max_length,
    )


def make_selection(
    given: Mapping[str, Any], allocation: str, recovery: str, keep: float | None
) -> Selection | None:
    """How bases are selected; `None` where they are not. What is `None` in `given` is as it is by default.

    Raises:
        UsageError: a value that does not exist or is out of range, or of no use with this recovery.
    """
    given = {name: value for name, value in given.items() if value is not None}
    known = " and ".join(recipes.SELECTIONS)
    if (allocation == LEARNED) != (recovery in recipes.SELECTIONS):
        raise UsageError(
            f"allocation {allocation} with recovery {recovery}: {LEARNED} ranks come out of {known}, and "
            "these give no others"
        )
    if recovery not in recipes.SELECTIONS:
        if given:
            raise UsageError(f"--{_dashed(next(iter(given)))} is for {known}")
        return None
    if keep is None:
        raise UsageError(f"{recovery} trains towards a size: give --keep")
    try:
        selection = Selection(**{**recipes.SELECTIONS[recovery].model_dump(), **given})
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"--{_dashed(name)} {given[name]}: {first['msg']}") from None
    return selection


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def needs_data(recipe: Recipe) -> bool:
    """Whether anything in the recipe looks at the data."""
    return (
        bool(recipes.find_metric(recipe.metric).moments)
        or needs_held_out(recipe)
        or recipe.recovery == "refit"
    )


def knows_options(recipe: Recipe) -> bool:
    """Whether the ranks depend neither on the weights nor on the data."""
    by_hand = recipe.rank is not None or recipe.ratio is not None
    return by_hand or recipe.keep == 1 or (has_budget(recipe) and recipe.allocation == "uniform")


def has_budget(recipe: Recipe) -> bool:
    """Whether it says to what size, in parameters or in bytes."""
    return recipe.keep is not None or recipe.size is not None


def needs_held_out(recipe: Recipe) -> bool:
    """Whether the recipe measures the model on data that it was not calibrated on."""
    return recipe.max_loss is not None or (has_budget(recipe) and recipe.allocation in MEASURED)


def _check_dials(
    values: tuple[float | None, float | None, float | None, int | None, float | None, int | None],
    samples: int | None,
    max_length: int,
) -> None:
    keep, max_loss, energy, rank, ratio, size = values
    given = [name for name, value in zip(DIALS, values, strict=True) if value is not None]
    if len(given) != 1:
        had = f"{' and '.join('--' + name for name in given)} were given" if given else "none was given"
        raise UsageError(f"say how small by exactly one of {', '.join('--' + d for d in DIALS)}: {had}")
    if keep is not None and not 0 < keep <= 1:
        raise UsageError(f"keep {keep:g} is not a share of the parameters: it is above 0 and at most 1")
    if max_loss is not None and not 0 < max_loss < inf:
        raise UsageError(
            f"max-loss {max_loss:g} is not an increase of the loss: it is above 0, as 2% or 0.02"
        )
    if energy is not None and not 0 < energy <= 1:
        raise UsageError(f"energy {energy:g} is not a share of the energy: it is above 0 and at most 1")
    if ratio is not None and not 0 < ratio <= 1:
        raise UsageError(f"ratio {ratio:g} is not a share of the smaller side: it is above 0 and at most 1")
    if rank is not None and rank < 1:
        raise UsageError(f"rank {rank} is not a rank: it is 1 or more")
    if size is not None and size < 1:
        raise UsageError(f"size {size} is not a number of bytes: it is 1 or more, as 300MB")
    if (samples is not None and samples < 1) or max_length < 1:
        raise UsageError("--samples and --max-length are 1 or more")


def _known_structures(names: str) -> list[Structure]:
    """The structures named, by commas.

    Raises:
        UsageError: there is no such one.
    """
    for name in names.split(","):
        if name not in structures.replacements():
            raise UsageError(unknown("structure", name, structures.replacements()))
    return [structures.find(name) for name in names.split(",")]


def _usual_method(asked: Sequence[Structure], by_hand: bool, has_data: bool) -> str:
    """The row that is meant where none is named: for a structure with more parameters than dense its own."""
    if asked and not any(structure.fewer for structure in asked):
        own = (row.name for row in recipes.METHODS.values() if row.structure == asked[0].name)
        return next(own, "svd") if has_data else "svd"
    if by_hand:
        return "svd-llm" if has_data else "svd"
    return "auto"


def _check_structures(chosen: Sequence[Structure], keep: float | None, selected: Selection | None) -> None:
    """Raises UsageError where structures cannot do what is asked of them."""
    names = ",".join(structure.name for structure in chosen)
    if keep is not None and not any(structure.fewer for structure in chosen):
        raise UsageError(
            f"{names} has more parameters than a dense weight, in fewer bytes: say how small by --size, "
            "--rank or --ratio"
        )
    if selected is not None and not (len(chosen) == 1 and chosen[0].spectral):
        spectral = " or ".join(n for n in structures.replacements() if structures.find(n).spectral)
        raise UsageError(f"a selection of bases ends in factors: --structure {spectral}, not {names}")
