"""What a recipe would give each site, with no weights and no data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from eckart import allocate, structures
from eckart.estimate import budget
from eckart.estimate.memory import Need
from eckart.estimate.prices import Prices
from eckart.recipes import making
from eckart.structures import Site
from eckart.types import Bytes, Count, Option, Recipe, Shown, Tied


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
        allocator = allocate.uniform
        notes.append(
            f"the ranks of {recipe.allocation} depend on the weights: shown are uniform ones of the same size"
        )
    picks = allocator(curves := prices.curves(sites), allowed)
    return [
        prices.dense() if pick is None else curve.options[pick - 1]
        for curve, pick in zip(curves, picks, strict=True)
    ]


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
