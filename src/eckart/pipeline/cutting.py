"""From a loaded model to a smaller one: observe, choose ranks, cut, refit, and measure what was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart import allocate, calibrate, recipes
from eckart.evaluation import Moved, Reference
from eckart.model import replacing, text
from eckart.model import targets as targets_
from eckart.pipeline import choices
from eckart.pipeline.observing import BACKWARD_TOKENS, observe
from eckart.pipeline.refitting import refit
from eckart.pipeline.searching import Found, Search
from eckart.pipeline.workbench import Workbench
from eckart.types import SAMPLE_TOKENS, SAMPLES, HeldOut, Recipe, TargetRecord, Text, Track, UsageError

HELD_OUT = 8
"""One window in so many is held out of calibration, where something is to be measured."""
HELD_OUT_TOKENS = 8192
REFIT_TOKENS = 32768
GRADIENT_TOKENS = 16384
"""That gradients are taken of: their moments settle sooner than those of the inputs."""

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

    def merged(self) -> Cut:
        """The same once the factors were multiplied out."""
        records = [
            record.model_copy(update={"structure": "dense", "parameters_after": record.parameters_before})
            for record in self.records
        ]
        return Cut(records, self.held_out, [*self.notes, MERGED])


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
        size = sum(target.out_features * target.in_features for target in chosen)
        choices.require_possible(chosen, recipe, replacing.count_parameters(model) - size)
        observed = None
        held: list[text.Window] = []
        calibrating: list[text.Window] = []
        if choices.needs_data(recipe):
            if tokenizer is None:
                raise UsageError("a loaded model with data needs its tokenizer too: pass tokenizer=")
            limit, least = (recipe.samples, 0) if recipe.samples else (SAMPLES, SAMPLE_TOKENS)
            windows = text.windows(model, tokenizer, texts, recipe.max_length, limit, least)
            calibrating, held = self._split(windows)
            metric = recipes.find_metric(recipe.metric)
            observed = observe(
                model,
                tokenizer,
                calibrating,
                [target.name for target in chosen],
                metric.moments or frozenset({"absolute"}),
                labels=metric.labels,
                temperature=metric.temperature,
                gradient_windows=_count(calibrating, GRADIENT_TOKENS),
                folder=folder,
                cache=cache,
                track=track,
            )
            watched = metric.moments & calibrate.INPUT_KINDS or not metric.moments
            unseen = [t for t in chosen if watched and observed.spaces[t.name] not in observed.moments]
            self.notes += [f"{t.name} stays dense: no token of the data reached it" for t in unseen]
            chosen = [target for target in chosen if target not in unseen]
        self.tokens = observed.tokens if observed else None
        self.bench = Workbench(model, chosen, recipe, observed, track)
        self.fitting = (
            text.batches(model, tokenizer, _spread(calibrating, REFIT_TOKENS)) if calibrating else []
        )
        reference = None
        if held:
            reference = Reference(
                model, text.batches(model, tokenizer, _spread(held, HELD_OUT_TOKENS), BACKWARD_TOKENS)
            )
        self.search = Search(self.bench, reference)

    def _split(self, windows: list[text.Window]) -> tuple[list[text.Window], list[text.Window]]:
        if not choices.needs_held_out(self.recipe):
            return windows, []
        held = windows[HELD_OUT - 1 :: HELD_OUT]
        if not held:
            self.notes.append(
                f"{len(windows)} windows of data are too few to hold some out: ranks were chosen on the "
                "data that was calibrated on"
            )
            return windows, windows
        return [window for index, window in enumerate(windows) if index % HELD_OUT != HELD_OUT - 1], held

    def cut(self, recipe: Recipe, keep_dense: bool = False) -> Cut:
        """Cut the model as the recipe says, which differs from the one it was prepared for in the size alone.

        Args:
            keep_dense: so that `bench.restore` makes it dense again.
        """
        found, reference = self._ranks(recipe), self.search.reference
        notes = choices.dense_notes(self.bench.targets, recipe, found.ranks)
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
        held_out = None
        if reference and moved:
            held_out = HeldOut(
                tokens=reference.tokens,
                before=reference.before.loss,
                after=moved.loss,
                divergence=moved.divergence,
                candidates=found.candidates,
            )
        return Cut(records, held_out, notes)

    def _ranks(self, recipe: Recipe) -> Found:
        targets, bench = self.bench.targets, self.bench
        if recipe.keep == 1:
            return Found([None] * len(targets))
        if recipe.keep is not None:
            return self.search.ranks(choices.require_possible(targets, recipe, bench.fixed))
        if recipe.max_loss is not None:
            delivered = self._delivered if recipe.recovery == "refit" else None
            return self.search.smallest(recipe.max_loss, delivered)
        if recipe.energy is not None:
            return Found(allocate.ranks_at(bench.curves(), recipe.energy))
        return Found(choices.hand_ranks(targets, recipe))

    def _delivered(self, found: Found) -> Moved:
        """How far the model moves with its targets cut to these ranks, refit and all."""
        refit(self.bench, found.ranks, self.fitting, keep_dense=True)
        moved = self.search.moved()
        self.bench.restore()
        return moved


def _count(windows: Sequence[text.Window], tokens: int) -> int:
    """How many windows, spread over all, have about so many tokens."""
    mean = sum(len(window.ids) for window in windows) / len(windows)
    return min(len(windows), max(1, round(tokens / mean)))


def _spread(windows: Sequence[text.Window], tokens: int) -> list[text.Window]:
    """About so many tokens of windows, spread over all."""
    count = _count(windows, tokens)
    return [windows[index * len(windows) // count] for index in range(count)]
