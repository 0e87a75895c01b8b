"""Options by measurement: candidates on held-out data, single cuts, the smallest model within a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from eckart import allocate
from eckart.compression.bench import Bench
from eckart.estimate import budget
from eckart.evaluation import Moved, Reference
from eckart.recipes import making
from eckart.types import Candidate, Curve, Option, Recipe, UsageError

MEASURED_SHARES = (0.2, 0.5, 0.8)
"""Of a site's cost: where the loss of replacing it alone is measured."""
MEASURED_FLOOR = 0.3
STEPS = 8
"""Of bisection: the size is known to 1/256 of the sites."""


@dataclass
class Found:
    """An option for each site, and how they were come by."""

    options: list[Option]
    candidates: list[Candidate] = field(default_factory=list)


class Search:
    """Finds options for any budget on one bench, with one set of decompositions.

    Args:
        reference: what the dense model says on held-out windows; `None` where nothing is measured.
    """

    def __init__(self, bench: Bench, reference: Reference | None) -> None:
        self.bench, self.reference = bench, reference
        self._measured: list[Curve] | None = None

    def find(self, recipe: Recipe, delivered: Callable[[Found], Moved] | None = None) -> Found:
        """The options that a recipe asks for.

        Args:
            delivered: as for `smallest`.
        """
        bench = self.bench
        if recipe.keep == 1:
            return Found([bench.prices.dense()] * len(bench.sites))
        if making.has_budget(recipe):
            return self.under(budget.require_possible(bench.sites, recipe, bench.prices))
        if recipe.max_loss is not None:
            return self.smallest(recipe.max_loss, delivered)
        if recipe.energy is not None:
            curves = bench.curves()
            return Found(bench.prices.picked(curves, allocate.at_energy(curves, recipe.energy)))
        return Found(budget.options_by_hand(bench.sites, recipe, bench.prices))

    def under(self, limit: int) -> Found:
        """The options that the recipe's allocation gives under a budget of parameters, or of bytes."""
        bench = self.bench
        if bench.recipe.allocation == "measured":
            curves = self._measured_curves()
            return Found(bench.prices.picked(curves, allocate.waterfill(curves, limit, MEASURED_FLOOR)))
        if bench.recipe.allocation == "auto":
            return self._best(limit)
        return Found(allocated(bench, bench.recipe.allocation, limit))

    def smallest(self, max_loss: float, delivered: Callable[[Found], Moved] | None = None) -> Found:
        """The least cost whose loss on held-out data is within `1 + max_loss` of the dense model's.

        An encoder has no loss: `max_loss` bounds its divergence. Found by bisection over one set of
        decompositions; larger models are taken to lose less.

        Args:
            delivered: how far the model moves with everything that follows the cut (a refit), asked where
                the cut alone moves it too far.

        Raises:
            UsageError: no cut that saves anything is within it.
        """
        bench, reference = self.bench, self._reference()
        limit = allowed(reference, max_loss)
        low, high = allocate.least(bench.costs()), bench.size - 1
        best: Found | None = None
        for _ in bench.store.track(range(STEPS), "searching", STEPS):
            middle = (low + high) // 2
            found = self.under(middle)
            within = self.measure(found.options).loss <= limit
            if within or (delivered is not None and delivered(found).loss <= limit):
                best, high = found, middle
            else:
                low = middle
        if best is None:
            raise UsageError(
                f"max-loss {max_loss:g}: no cut of these targets keeps the loss within {limit:.4f} "
                f"(dense {reference.before.loss:.4f}); allow more, or give more data"
            )
        return best

    def moved(self) -> Moved:
        """How far the model, as it was finished, is from the dense one."""
        return self.bench.store.moved(self._reference())

    def measure(self, options: Sequence[Option]) -> Moved:
        """How far the model moves with its sites replaced by these options."""
        return self._measure_all([options])[0]

    def _measure_all(self, several: Sequence[Sequence[Option]]) -> list[Moved]:
        return self.bench.store.measure(self.bench, self._reference(), several)

    def _reference(self) -> Reference:
        assert self.reference is not None
        return self.reference

    def _best(self, limit: int) -> Found:
        """The candidate that moves the model least: uniform sizes, or water-filled ones with some floor."""
        bench = self.bench
        curves = bench.curves()
        tries = {"uniform": bench.prices.picked(curves, allocate.uniform(curves, limit))}
        for floor in bench.store.divided.effort.floors:
            options = bench.prices.picked(curves, allocate.waterfill(curves, limit, floor))
            if options not in tries.values():
                tries[f"waterfill, floor {floor:g}"] = options
        candidates = [
            Candidate(name=name, divergence=moved.divergence, loss=moved.loss)
            for name, moved in zip(tries, self._measure_all(list(tries.values())), strict=True)
        ]
        best = min(candidates, key=lambda candidate: candidate.divergence)
        return Found(tries[best.name], candidates)

    def _measured_curves(self) -> list[Curve]:
        """Each site's divergence when it alone is replaced, at a few options and fitted (LEMS, ICML 2026)."""
        if self._measured is None:
            bench = self.bench
            predicted = bench.curves()
            places = range(len(predicted))
            tried = [_picks_to_measure(curve) for curve in predicted]
            alone = [
                bench.prices.picked(predicted, [pick if at == index else None for at in places])
                for index, picks in enumerate(tried)
                for pick in picks
            ]
            losses = iter([moved.divergence for moved in self._measure_all(alone)])
            self._measured = [
                replace(curve, errors=_fitted(curve, picks, [next(losses) for _ in picks]))
                for curve, picks in zip(predicted, tried, strict=True)
            ]
        return self._measured


def _picks_to_measure(curve: Curve) -> list[int]:
    shares = (allocate.largest_within(curve, share * curve.dense) for share in MEASURED_SHARES)
    return sorted({pick for pick in shares if pick is not None})


def _fitted(curve: Curve, picks: list[int], losses: list[float]) -> np.ndarray:
    assert curve.errors is not None
    return allocate.fitted(curve.errors, picks, losses) if picks else curve.errors


def allowed(reference: Reference, max_loss: float) -> float:
    """The loss that a limit allows: relative to the dense model's, or itself where that is nothing."""
    before = reference.before
    return before.loss * (1 + max_loss) if before.loss > before.divergence else max_loss


def allocated(bench: Bench, allocation: str, budget: int) -> list[Option]:
    """Options by one allocator, from the errors where it needs them."""
    needs_errors = allocation in allocate.NEEDS_ERRORS
    curves = bench.curves() if needs_errors else bench.costs()
    return bench.prices.picked(curves, allocate.ALLOCATORS[allocation](curves, budget))
