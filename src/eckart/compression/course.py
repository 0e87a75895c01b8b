"""A model on its way to a smaller one: observe, decide, cut, refit, measure. One course for both stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eckart import allocate
from eckart.compression.bench import Bench
from eckart.compression.cuts import Cut, held_out, rounding_notes
from eckart.compression.imitation import UNTRAINED, Imitation
from eckart.compression.refit import refit
from eckart.compression.rounding import quantize_targets
from eckart.compression.search import Found, Search
from eckart.compression.store import Store
from eckart.estimate import budget
from eckart.estimate.prices import Prices
from eckart.estimate.time import refit_comes
from eckart.evaluation import Moved
from eckart.model import vocabulary
from eckart.recipes import making
from eckart.structures import find
from eckart.types import Candidate, EckartError, Option, Recipe, Target, UsageError

WORSE = f"{UNTRAINED}: on held-out data that moved it further"
UNFITTED = "not refitted: on held-out data the refit moved the model further"


class Course:
    """A model that is observed once, to be cut to a size, or in memory to any number of them.

    Args:
        targets: those that may be replaced.
        recipe: what cuts differ from in their size alone.

    Attributes:
        bench: the sites and what is worked out about them.
        search: finds options.
        tokens: real tokens calibrated on, `None` without data.
    """

    def __init__(self, store: Store, targets: Sequence[Target], recipe: Recipe, **bench: Any) -> None:
        self.store, self.recipe = store, recipe
        prices = Prices.of(store.model, targets, recipe, device=store.device)
        self.bench = Bench(store, targets, recipe, prices, **bench)
        self.search = Search(self.bench, None)
        # In memory this takes no time; where it does, it is asked of the dense model once it was observed.
        self._options: list[Option] | None = None

    @property
    def tokens(self) -> int | None:
        return self.store.divided.tokens

    def cut(self, recipe: Recipe, keep_dense: bool = False) -> Cut | None:
        """Cut the model as the recipe says; `None` in a process that leaves the rest to another.

        Args:
            keep_dense: so that `bench.restore` makes it dense again.
        """
        # Asked of the dense model, which is not there afterwards.
        imitation = self.store.imitation() if making.imitates(recipe) else None
        # Where nothing can be trained behind it, the refit comes whatever it takes.
        comes = imitation is None or refit_comes(recipe, self.bench.targets, self.tokens or 0)
        refits = making.refits(recipe) and comes
        cut = self._cut(recipe, refits, keep_dense)
        return self._imitated(cut, imitation) if cut and imitation else cut

    def _cut(self, recipe: Recipe, refits: bool, keep_dense: bool) -> Cut | None:
        """Without what is trained behind it."""
        store, bench = self.store, self.bench
        found = self.search.find(recipe) if making.knows_options(recipe) else None
        if found and not refits:
            store.observe(bench, found.options)
            self._install(found.options, keep_dense)
            return self._result(recipe, found, self._moved(), []) if store.leads else None
        store.observe(bench, None)
        if not store.leads:
            return None
        self.search.reference = store.reference() if store.divided.chooses else None
        found = self._chosen(found, recipe, refits)
        if not refits or all(option.structure == "dense" for option in found.options):
            self._install(found.options, keep_dense)
            return self._result(recipe, found, self._moved(), [])
        if store.remembered("unfitted") is not None:
            self._install(found.options, keep_dense)
            return self._result(recipe, found, self._moved(), [UNFITTED])
        return self._refitted(recipe, found, keep_dense)

    def _chosen(self, found: Found | None, recipe: Recipe, refits: bool) -> Found:
        """The options, found once: a run that is gone on with does not choose again."""
        if known := self.store.remembered("options"):
            options = [Option.model_validate(option) for option in known["options"]]
            return Found(options, [Candidate.model_validate(each) for each in known["candidates"]])
        delivered = self._delivered if refits and not self.store.writes else None
        found = found or self.search.find(recipe, delivered)
        self.store.remember(
            "options",
            {
                "options": [option.model_dump() for option in found.options],
                "candidates": [candidate.model_dump() for candidate in found.candidates],
            },
        )
        return found

    def _refitted(self, recipe: Recipe, found: Found, keep_dense: bool) -> Cut:
        """The cut with a refit, or without where on held-out data that moves the model less."""
        store, bench = self.store, self.bench
        plain = self.search.measure(found.options) if self.search.reference else None
        notes = refit(
            bench, self._by_site(found.options), store.batches_to_fit(), keep_dense or plain is not None
        )
        moved = self._moved()
        if plain and moved and moved.divergence > plain.divergence:
            # In this order: a run that is killed in between would take what was refitted for what is wanted.
            store.undo(bench)
            store.remember("unfitted", {})
            self._install(found.options, keep_dense)
            moved = self._moved()
            notes.append(UNFITTED)
        return self._result(recipe, found, moved, notes)

    def _imitated(self, cut: Cut, imitation: Imitation) -> Cut:
        """The cut, trained to imitate the dense model where on held-out data that moves it less."""
        if all(record.option.structure == "dense" for record in cut.records):
            return cut
        model = self.bench.model
        with imitation.undoable(model) as undo:
            try:
                done = imitation.train(model, self.store.track)
            except EckartError as error:
                undo()
                return Cut(cut.records, cut.held_out, [*cut.notes, f"{UNTRAINED}: {error}"])
            moved = self._moved()
            if moved and cut.held_out and moved.divergence > cut.held_out.divergence:
                undo()
                return Cut(cut.records, cut.held_out, [*cut.notes, WORSE])
        said = f"trained to imitate the dense model: {done}"
        if moved and cut.held_out:
            said += f"; divergence {cut.held_out.divergence:.4f} to {moved.divergence:.4f} on held-out data"
        # What was measured of a cut weight is true of it no more; what stayed dense did not learn.
        records = [
            record if record.option.structure == "dense" else new
            for record, new in zip(cut.records, cut.trained().records, strict=True)
        ]
        return Cut(records, cut.held_out, [*cut.notes, said]).with_records(records, moved)

    def _install(self, options: Sequence[Option], keep_dense: bool) -> None:
        """Replace the sites of every piece that is not finished."""
        store = self.store
        wanted = self._by_site(options)
        pieces = store.pieces()
        for piece in store.track(pieces, "factorizing", len(pieces)):
            with store.resident(piece):
                store.install(self.bench, piece, wanted, keep_dense)

    def _delivered(self, found: Found) -> Moved:
        """How far the model moves with its sites replaced by these options, refit and all."""
        refit(self.bench, self._by_site(found.options), self.store.batches_to_fit(), keep_dense=True)
        moved = self.search.moved()
        self.bench.restore()
        return moved

    def _by_site(self, options: Sequence[Option]) -> dict[str, Option]:
        return {site.name: option for site, option in zip(self.bench.sites, options, strict=True)}

    def _moved(self) -> Moved | None:
        return self.search.moved() if self.search.reference else None

    def _result(self, recipe: Recipe, found: Found, moved: Moved | None, notes: list[str]) -> Cut:
        bench = self.bench
        measured = held_out(self.search.reference, moved, found)
        notes = budget.dense_notes(bench.sites, recipe, bench.prices, found.options) + notes
        cut = Cut(self.store.records(bench), measured, notes)
        if self.store.writes:
            cut.notes = [*cut.notes, *rounding_notes(recipe, measured, self.search.reference)]
        return cut

    def rounded(self, cut: Cut, recipe: Recipe, keep_dense: bool = False) -> Cut:
        """The model that was cut with its weights quantized, where the recipe asks for that.

        Args:
            keep_dense: as for `cut`.
        """
        bench = self.bench
        if recipe.quantize is None:
            return cut
        for target in bench.targets:
            bench.keep(target, keep_dense)
        records = quantize_targets(bench.model, cut.records, bench.sides, self.store.track)
        rounded = cut.with_records(records, self.search.moved() if cut.held_out else None)
        rounded.notes = [*rounded.notes, *rounding_notes(recipe, rounded.held_out, self.search.reference)]
        return rounded

    def work_ahead(self, recipe: Recipe) -> None:
        """Do now what every size needs and what is otherwise left until the first."""
        self.store.observe(self.bench, None)
        refitted_only = making.refits(recipe) and not making.needs_held_out(recipe)
        if not refitted_only or recipe.allocation in allocate.NEEDS_ERRORS:
            self.bench.curves()
        if recipe.allocation == "measured":
            self.search.reference = self.store.reference()
            self.search.under(self.bench.size)


def require_replaceable(model: Any, chosen: Sequence[Target], recipe: Recipe) -> None:
    """Raises UsageError where an embedding is chosen with what works on linear layers alone."""
    others = [name for name in recipe.structures if "embedding" not in find(name).supports]
    why = (
        "--quantize"
        if recipe.quantize
        else "selection of bases"
        if recipe.selection
        else others[0]
        if others
        else None
    )
    if why is None:
        return
    for target in chosen:
        if vocabulary.is_embedding(model, target.name) or vocabulary.siblings_of(model, target.name):
            raise UsageError(
                f"{why} works on linear layers, and {target.name} has the embedding's weight: leave it out "
                "of --targets"
            )
