"""From a loaded model to a smaller one: observe, choose ranks, cut, refit, and measure what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart import calibrate, recipes
from eckart.calibrate.observing import Gradients, MomentCache, observe
from eckart.compression.bench import Workbench
from eckart.compression.dividing import divide
from eckart.compression.refit import refit
from eckart.compression.rounding import quantize_targets
from eckart.compression.search import Found, Search
from eckart.estimate import budget
from eckart.estimate.prices import Prices
from eckart.evaluation import Moved, Reference
from eckart.model import targets as targets_
from eckart.model import vocabulary
from eckart.types import HeldOut, Recipe, Target, TargetRecord, Text, Track, UsageError

MERGED = "merged: the factors were multiplied out again, so the model is as large and as fast as before"


@dataclass
class Cut:
    """What was done to the targets, and what it came to on held-out data where that was measured."""

    records: list[TargetRecord]
    held_out: HeldOut | None = None
    notes: list[str] = field(default_factory=list)

    def trained(self) -> Cut:
        """The same after training: what was measured of the cut alone is true of it no more."""
        records = [record.model_copy(update={"measured_error": None}) for record in self.records]
        return Cut(records, None, self.notes)

    def with_records(self, records: list[TargetRecord], moved: Moved | None) -> Cut:
        """The same after another step, and how far the model has moved with it, where that is measured."""
        measured = self.held_out
        if measured is not None and moved is not None:
            measured = measured.model_copy(update={"after": moved.loss, "divergence": moved.divergence})
        return Cut(records, measured, self.notes)

    def merged(self) -> Cut:
        """The same once the factors were multiplied out."""
        records = [
            record.model_copy(update={"structure": "dense", "parameters_after": record.parameters_before})
            for record in self.records
        ]
        return Cut(records, self.held_out, [*self.notes, MERGED])


def held_out(reference: Reference | None, moved: Moved | None, found: Found) -> HeldOut | None:
    """What was measured on data that nothing was calibrated on, where something was."""
    if reference is None or moved is None:
        return None
    return HeldOut(
        tokens=reference.tokens,
        before=reference.before.loss,
        after=moved.loss,
        divergence=moved.divergence,
        candidates=found.candidates,
    )


def rounding_notes(recipe: Recipe, measured: HeldOut | None) -> list[str]:
    """What rounding made of a loss that a limit was set to: it comes after the search."""
    if recipe.quantize is None or recipe.max_loss is None or measured is None:
        return []
    # An encoder has no loss of its own: the limit is its divergence.
    limit = measured.before * (1 + recipe.max_loss) if measured.before else recipe.max_loss
    where = "within" if measured.after <= limit else "above"
    return [
        f"the size was searched before the rounding to {recipe.quantize}; with it the held-out loss is "
        f"{measured.after:.4f}, {where} the limit of {limit:.4f}"
    ]


def require_linear(model: Any, chosen: Sequence[Target], recipe: Recipe) -> None:
    """Raises UsageError where an embedding is chosen with what works on linear layers alone."""
    why = "--quantize" if recipe.quantize else "selection of bases" if recipe.selection else None
    if why is None:
        return
    for target in chosen:
        if vocabulary.is_embedding(model, target.name) or vocabulary.siblings_of(model, target.name):
            raise UsageError(
                f"{why} works on linear layers, and {target.name} has the embedding's weight: leave it out "
                "of --targets"
            )


class Prepared:
    """A model that was looked at once, to be cut to any number of sizes.

    Attributes:
        bench: the model and its targets.
        tokens: real tokens calibrated on, `None` without data.
        notes: what stays dense, and why.

    Raises:
        UsageError: the recipe asks for what the model or the data does not have.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        recipe: Recipe,
        texts: Sequence[Text],
        track: Track,
        *,
        folder: Any = None,
        cache: bool = True,
    ) -> None:
        self.recipe = recipe
        found = targets_.find_targets(model, recipe.targets, recipe.layers)
        self.notes = list(found.notes)
        chosen = found.targets
        require_linear(model, chosen, recipe)
        budget.require_possible(chosen, recipe, Prices.of(model, chosen, recipe))
        observed, tokens = None, {}
        divided = divide(model, tokenizer, recipe, texts)
        self.notes += divided.notes
        if divided.calibrating:
            metric = recipes.find_metric(recipe.metric)
            embeddings = [t for t in chosen if vocabulary.is_embedding(model, t.name)]
            if metric.moments:
                tokens = {t.name: vocabulary.counts(divided.calibrating, t) for t in embeddings}
            observed = observe(
                model,
                tokenizer,
                divided.calibrating,
                [target.name for target in chosen if target not in embeddings],
                metric.moments or frozenset({"absolute"}),
                gradients=Gradients(metric.labels, metric.temperature, windows=divided.gradient_windows),
                cache=MomentCache(cache, folder),
                track=track,
            )
            watched = metric.moments & calibrate.INPUT_KINDS or not metric.moments
            unseen = [
                t
                for t in chosen
                if watched and t not in embeddings and observed.spaces[t.name] not in observed.moments
            ]
            self.notes += targets_.unreached(model, [target.name for target in unseen])
            chosen = [target for target in chosen if target not in unseen]
        self.tokens = observed.tokens if observed else None
        self.bench = Workbench(model, chosen, recipe, observed, track, tokens)
        self.fitting = divided.fitting()
        reference = divided.reference()
        self.search = Search(self.bench, reference)

    def cut(self, recipe: Recipe, keep_dense: bool = False) -> Cut:
        """Cut the model as the recipe says, which differs from the one it was prepared for in the size alone.

        Args:
            keep_dense: so that `bench.restore` makes it dense again.
        """
        delivered = self._delivered if recipe.recovery == "refit" else None
        found, reference = self.search.ranks_for(recipe, delivered), self.search.reference
        notes = budget.dense_notes(self.bench.targets, recipe, found.ranks)
        if recipe.recovery == "refit" and any(rank is not None for rank in found.ranks):
            plain = self.search.measure(found.ranks) if reference else None
            fitted = refit(self.bench, found.ranks, self.fitting, keep_dense or plain is not None)
            records, notes = fitted.records, notes + fitted.notes
            moved = self.search.moved() if reference else None
            if plain and moved and moved.divergence > plain.divergence:
                self.bench.restore()
                records = self.bench.install(found.ranks, keep_dense)
                moved = self.search.moved()
                notes.append("not refitted: on held-out data the refit moved the model further")
        else:
            records = self.bench.install(found.ranks, keep_dense)
            moved = self.search.moved() if reference else None
        return Cut(records, held_out(reference, moved, found), notes)

    def rounded(self, cut: Cut, recipe: Recipe, keep_dense: bool = False) -> Cut:
        """The model that was cut with its targets' weights quantized, where the recipe asks for that.

        Args:
            keep_dense: as for `cut`.
        """
        bench = self.bench
        if recipe.quantize is None:
            return cut
        for target in bench.targets:
            bench.keep(target, keep_dense)
        records = quantize_targets(
            bench.model, cut.records, recipe.quantize, recipe.structure, bench.sides, bench.track
        )
        rounded = cut.with_records(records, self.search.moved() if cut.held_out else None)
        rounded.notes = [*rounded.notes, *rounding_notes(recipe, rounded.held_out)]
        return rounded

    def _delivered(self, found: Found) -> Moved:
        """How far the model moves with its targets cut to these ranks, refit and all."""
        refit(self.bench, found.ranks, self.fitting, keep_dense=True)
        moved = self.search.moved()
        self.bench.restore()
        return moved
