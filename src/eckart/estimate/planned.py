"""What a recipe would give each site, with no weights and no data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from eckart import allocate, structures
from eckart.estimate import budget
from eckart.estimate.memory import Need
from eckart.estimate.prices import Prices, SiteErrors
from eckart.recipes import making
from eckart.structures import Site
from eckart.types import Bytes, Count, Option, Quantize, Recipe, Shown, Tied

USUAL_ROUNDING: dict[Quantize, float] = {"int8": 0.004, "int4": 0.04, "int3": 0.1, "int2": 0.3}
"""Relative errors of weights that are rounded in the metric of their inputs, as in all-MiniLM-L6-v2."""
STEEPNESS = 4
"""The power of the share of the sizes that is missing which the energy left is about as large as."""


@dataclass(frozen=True)
class PlannedSite:
    """One site and the option that the recipe gives it.

    Attributes:
        break_even: for structures, the largest size with fewer parameters than the dense weights.
    """

    site: Site
    option: Option
    parameters_before: int
    parameters_after: int
    break_even: dict[str, int]


def planned_options(sites: Sequence[Site], recipe: Recipe, prices: Prices, notes: list[str]) -> list[Option]:
    """The ranks that the recipe gives; where they depend on the weights or the data, uniform ones."""
    if not making.has_budget(recipe):
        return budget.options_by_hand(sites, recipe, prices)
    allowed = budget.require_possible(sites, recipe, prices)
    if recipe.keep == 1:
        return [prices.dense()] * len(sites)
    allocator = allocate.ALLOCATORS.get(recipe.allocation)
    if allocator is None or recipe.allocation in allocate.NEEDS_ERRORS:
        if prices.mixed:
            notes.append(
                f"what {recipe.allocation} gives each weight depends on the weights: shown is what it would "
                "give usual ones"
            )
            curves = prices.curves(sites, [_usual_errors(site, prices) for site in sites])
            return prices.picked(curves, allocate.waterfill(curves, allowed))
        allocator = allocate.uniform
        notes.append(
            f"the ranks of {recipe.allocation} depend on the weights: shown are uniform ones of the same size"
        )
    curves = prices.curves(sites)
    return prices.picked(curves, allocator(curves, allowed))


def _usual_errors(site: Site, prices: Prices) -> SiteErrors:
    """What a site of weights as they usually are would lose: as much of itself as every other."""
    whole = sum(target.out_features * target.in_features for target in site.targets)
    by_size = {}
    for name in prices.structures:
        sizes = 0 if site.dense else len(structures.find(name).sizes(site))
        by_size[name] = whole * (1 - np.arange(sizes + 1) / (sizes + 1)) ** STEEPNESS
    rounding: dict[str, float] = {
        bits: whole * USUAL_ROUNDING[bits] ** 2 for bits in prices.bits if bits is not None
    }
    return SiteErrors(by_size, rounding)


def plan_site(site: Site, option: Option, prices: Prices) -> PlannedSite:
    """What an option comes to at a site."""
    return PlannedSite(
        site=site,
        option=option,
        parameters_before=prices.parameters(site, Option(structure="dense")),
        parameters_after=prices.parameters(site, option),
        break_even={
            name: 0
            if site.dense and structures.find(name).channels
            else len(structures.find(name).sizes(site))
            for name in dict.fromkeys([*prices.structures, *structures.replacements()])
            if structures.find(name).fewer and (name in prices.structures or structures.find(name).spectral)
        },
    )


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """What `eckart plan` knows.

    Attributes:
        memory: what `compress` would take, with the whole model in memory or one block of it.
        efforts: seconds that it would compute here, a guide, by how much work it may put in.
        tokens: of data that it is for; `None` where it needs none.
        embedding_parameters: of the input embedding, and of the output's where it is another weight.
        tied: which weights are one weight under several names.
    """

    recipe: Recipe
    architecture: str
    parameters: Count
    bytes: Bytes
    sites: list[PlannedSite]
    seconds: float
    memory: Need
    efforts: dict[str, float]
    tokens: int | None
    embedding_parameters: int
    tied: list[Tied]
    notes: list[str] = field(default_factory=list)

    @property
    def compress_seconds(self) -> float:
        """That it would compute here with the effort that was asked for."""
        return self.efforts[self.recipe.effort]

    def in_a_line(self) -> str:
        """The sizes."""
        count, size = self.parameters, self.bytes
        return (
            f"{self.architecture}, {self.recipe.method}, {count.before:,} -> {count.after:,} parameters "
            f"({count.keep:.1%}), {size.before / 1e6:,.1f} -> {size.after / 1e6:,.1f} MB"
        )

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each target."""
        head = ("weight", "structure", "size", "parameters before", "after")
        rows = (
            (
                *(row.site.name, row.option.structure, row.option.size),
                *(row.parameters_before, row.parameters_after),
            )
            for row in self.sites
        )
        return head, rows
