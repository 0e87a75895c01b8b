"""Ranks by measurement: candidates on held-out data, single cuts, the smallest model within a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from eckart import allocate
from eckart.compression.bench import Ranks, Workbench, allocated
from eckart.estimate import budget
from eckart.evaluation import Moved, Reference
from eckart.recipes import making
from eckart.types import Candidate, Curve, Recipe, UsageError

FLOORS = (0.0, 0.3, 0.5, 0.7, 0.85)
"""Shares of its uniform rank that no target goes below: a candidate each."""
MEASURED_SHARES = (0.2, 0.5, 0.8)
"""Of a target's parameters: where the loss of cutting it alone is measured."""
MEASURED_FLOOR = 0.3
STEPS = 8
"""Of bisection: the size is known to 1/256 of the targets."""


Measure = Callable[[Sequence[Ranks]], list[Moved]]


@dataclass
class Found:
    """Ranks, and how they were come by."""

    ranks: list[int | None]
    candidates: list[Candidate] = field(default_factory=list)


class Search:
    """Finds ranks for any budget on one bench, with one set of spectra.

    Args:
        reference: what the dense model says on held-out windows; `None` where nothing is measured.
        measure: how far the model moves with its targets cut to each of several ranks; default one after
            another, on the bench.
    """

    def __init__(self, bench: Workbench, reference: Reference | None, measure: Measure | None = None) -> None:
        self.bench, self.reference = bench, reference
        self.measure_all = measure or self._one_by_one
        self._measured: list[Curve] | None = None

    def ranks_for(self, recipe: Recipe, delivered: Callable[[Found], Moved] | None = None) -> Found:
        """The ranks that a recipe asks for.

        Args:
            delivered: as for `smallest`.
        """
        bench = self.bench
        if recipe.keep == 1:
            return Found([None] * len(bench.targets))
        if making.has_budget(recipe):
            return self.ranks(budget.require_possible(bench.targets, recipe, bench.prices))
        if recipe.max_loss is not None:
            return self.smallest(recipe.max_loss, delivered)
        if recipe.energy is not None:
            return Found(allocate.ranks_at(bench.curves(), recipe.energy))
        return Found(budget.hand_ranks(bench.targets, recipe, bench.prices))

    def ranks(self, budget: int) -> Found:
        """The ranks that the recipe's allocation gives under a budget of parameters, or of bytes."""
        allocation = self.bench.recipe.allocation
        if allocation == "measured":
            return Found(allocate.waterfill(self._measured_curves(), budget, MEASURED_FLOOR))
        if allocation == "auto":
            return self._best(budget)
        return Found(allocated(self.bench, allocation, budget))

    def smallest(self, max_loss: float, delivered: Callable[[Found], Moved] | None = None) -> Found:
        """The fewest parameters whose loss on held-out data is within `1 + max_loss` of the dense model's.

        An encoder has no loss: `max_loss` bounds its divergence. Found by bisection over one set of
        decompositions; larger models are taken to lose less.

        Args:
            delivered: how far the model moves with everything that follows the cut (a refit), asked where
                the cut alone moves it too far.

        Raises:
            UsageError: no cut that saves a parameter is within it.
        """
        bench, reference = self.bench, self._reference()
        limit = allowed(reference, max_loss)
        low, high = allocate.least(bench.costs()), bench.size - 1
        best: Found | None = None
        for _ in bench.track(range(STEPS), "searching", STEPS):
            middle = (low + high) // 2
            found = self.ranks(middle)
            within = self.measure(found.ranks).loss <= limit
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
        """How far the model is, as it stands, from the dense one."""
        return self._reference().of(self.bench.model)

    def measure(self, ranks: Ranks) -> Moved:
        """How far the model moves with its targets cut to these ranks."""
        return self.measure_all([ranks])[0]

    def _one_by_one(self, several: Sequence[Ranks]) -> list[Moved]:
        moved = []
        tracked = self.bench.track(several, "measuring", len(several)) if len(several) > 1 else several
        for ranks in tracked:
            with self.bench.tried(ranks):
                moved.append(self.moved())
        return moved

    def _reference(self) -> Reference:
        assert self.reference is not None
        return self.reference

    def _best(self, budget: int) -> Found:
        """The candidate that moves the model least: uniform ranks, or water-filled ones with some floor."""
        curves = self.bench.curves()
        tries: dict[str, list[int | None]] = {"uniform": allocate.uniform(curves, budget)}
        for floor in FLOORS:
            ranks = allocate.waterfill(curves, budget, floor)
            if ranks not in tries.values():
                tries[f"waterfill, floor {floor:g}"] = ranks
        candidates = [
            Candidate(name=name, divergence=moved.divergence, loss=moved.loss)
            for name, moved in zip(tries, self.measure_all(list(tries.values())), strict=True)
        ]
        best = min(candidates, key=lambda candidate: candidate.divergence)
        return Found(tries[best.name], candidates)

    def _measured_curves(self) -> list[Curve]:
        """Each target's divergence when it alone is cut, at a few ranks and fitted (LEMS, ICML 2026)."""
        if self._measured is None:
            spectral = self.bench.curves()
            tried = [_ranks_to_measure(curve) for curve in spectral]
            alone = [
                [rank if at == index else None for at in range(len(spectral))]
                for index, ranks in enumerate(tried)
                for rank in ranks
            ]
            losses = iter([moved.divergence for moved in self.measure_all(alone)])
            fitted = [
                _fitted(curve, ranks, [next(losses) for _ in ranks])
                for curve, ranks in zip(spectral, tried, strict=True)
            ]
            self._measured = self.bench.prices.curves(self.bench.targets, fitted)
        return self._measured


def _ranks_to_measure(curve: Curve) -> list[int]:
    shares = (allocate.largest_within(curve, share * curve.dense) for share in MEASURED_SHARES)
    return sorted({rank for rank in shares if rank is not None})


def _fitted(curve: Curve, ranks: list[int], losses: list[float]) -> np.ndarray:
    assert curve.errors is not None
    return allocate.fitted(curve.errors, ranks, losses) if ranks else curve.errors


def allowed(reference: Reference, max_loss: float) -> float:
    """The loss that a limit allows: relative to the dense model's, or itself where that is nothing."""
    before = reference.before
    return before.loss * (1 + max_loss) if before.loss > before.divergence else max_loss
