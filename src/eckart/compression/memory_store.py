"""A model in memory: its weights, moments and decompositions stay."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from eckart import calibrate, recipes
from eckart.calibrate.observing import Gradients, MomentCache, observe
from eckart.compression.blocks.units import KeptMoments, Units
from eckart.compression.dividing import divide
from eckart.compression.imitation import UNTRAINED, Imitation, UnknownHeadError
from eckart.compression.store import OUTSIDE, Store
from eckart.estimate.memory import SHELVED_BYTES
from eckart.evaluation import Moved, Reference
from eckart.evaluation.machine import returning
from eckart.model import targets as targets_
from eckart.model import vocabulary
from eckart.recipes import making
from eckart.types import Moment, Option, Recipe, Target, TargetRecord, Text, Track

if TYPE_CHECKING:
    from eckart.compression.bench import Bench


class MemoryStore(Store):
    """A loaded model.

    Args:
        model: dense; it is changed in place.
        targets: those that were chosen.
        recipe: says what is observed.
        texts: of the data.
        track: shows progress.
        cache: where moments are kept on disk; default nowhere but in memory for this model.

    Attributes:
        targets: without those that no token of the data reached.
        tokens: how often an embedding's tokens were read, by its name.

    Raises:
        UsageError: the recipe asks for what the data do not have.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        targets: Sequence[Target],
        recipe: Recipe,
        texts: Sequence[Text],
        track: Track,
        cache: MomentCache | None = None,
    ) -> None:
        self.model, self.track, self.device = model, returning(track), model.device
        self.targets, self.notes = list(targets), []
        self.tokens: dict[str, Moment] = {}
        self.observed = None
        self.divided = divide(model, tokenizer, recipe, texts)
        self.notes += self.divided.notes
        self._imitation: Imitation | None = None
        self._unheard = False
        if self.divided.calibrating:
            # What it says is kept as it is calibrated on, where it is wanted.
            imitated = self._imitated() if making.imitates(recipe) else None
            with imitated.answers.listening() if imitated else nullcontext():
                self._observe(tokenizer, recipes.find_metric(recipe.metric), cache or MomentCache())
        self.blocks = targets_.stacks_of(model, [target.name for target in self.targets])
        self._reference: Reference | None = None
        self._records: dict[str, TargetRecord] = {}
        self.at = {}

    def _observe(self, tokenizer: Any, metric: recipes.Metric, cache: MomentCache) -> None:
        model, windows = self.model, self.divided.calibrating
        embeddings = [t for t in self.targets if vocabulary.is_embedding(model, t.name)]
        if metric.moments:
            self.tokens = {target.name: vocabulary.counts(windows, target) for target in embeddings}
        self.observed = observed = observe(
            model,
            tokenizer,
            windows,
            [target.name for target in self.targets if target not in embeddings],
            metric.moments or frozenset({"absolute"}),
            gradients=Gradients(metric.labels, metric.temperature, windows=self.divided.gradient_windows),
            cache=cache,
            track=self.track,
        )
        if _bytes_of(observed) > SHELVED_BYTES:
            self._shelf = tempfile.TemporaryDirectory(prefix="eckart-moments-")
            units = Units(Path(self._shelf.name))
            observed.moments = _shelved(units, "inputs", observed.moments, model.device)
            observed.gradients = _shelved(units, "gradients", observed.gradients, model.device)
        watched = metric.moments & calibrate.INPUT_KINDS or not metric.moments
        unseen = [
            target
            for target in self.targets
            if watched and target not in embeddings and observed.spaces[target.name] not in observed.moments
        ]
        self.notes += targets_.unreached(model, [target.name for target in unseen])
        self.targets = [target for target in self.targets if target not in unseen]

    def observe(self, bench: Bench, options: Sequence[Option] | None) -> None:
        if not self.at:
            for site in bench.sites:
                self.at.setdefault(self.piece_of(site.name), []).append(site)

    def moment(self, space: str, takes: bool) -> tuple[Moment, bool]:
        assert self.observed is not None
        return self.observed.moments[space], False

    def pieces(self) -> list[str]:
        return sorted(self.at, key=lambda piece: piece == OUTSIDE)

    def piece_of(self, name: str) -> str:
        block = targets_.block_of(self.model, name)
        return OUTSIDE if block is None else ".".join(map(str, block))

    def name_of(self, block: nn.Module) -> str:
        names: dict[int, str] = {id(module): name for name, module in self.model.named_modules()}
        return names[id(block)]

    def resident(self, piece: str) -> AbstractContextManager[None]:
        return nullcontext()

    def walk(self, batches: Sequence[Any]) -> AbstractContextManager[calibrate.Walk]:
        calibrate.require_walkable(self.model, self.blocks, batches[0])
        return calibrate.Walk(self.model, self.blocks, batches)

    def install(self, bench: Bench, piece: str, options: dict[str, Option], keep_dense: bool) -> None:
        for site in self.at[piece]:
            self.finish(bench, piece, bench.place(site, options[site.name], keep_dense=keep_dense))
            if not keep_dense:
                bench.forget(site)

    def finish(self, bench: Bench, piece: str, records: Sequence[TargetRecord]) -> None:
        self._records |= {record.name: record for record in records}

    def finished(self, piece: str) -> bool:
        return False

    def recall(self, piece: str) -> None:
        """Nothing has gone."""

    def records(self, bench: Bench) -> list[TargetRecord]:
        return [self._records[target.name] for target in bench.targets]

    def undo(self, bench: Bench) -> None:
        bench.restore()

    def imitation(self) -> Imitation | None:
        imitation = self._imitated()
        if imitation:
            imitation.answers.ask(self.track)
        return imitation

    def _imitated(self) -> Imitation | None:
        if self._imitation is None and not self._unheard:
            try:
                self._imitation = Imitation.of(self.model, self.divided)
            except UnknownHeadError as error:
                self._unheard = True
                self.notes = [*self.notes, f"{UNTRAINED}: {error}"]
        return self._imitation

    def reference(self) -> Reference | None:
        if self._reference is None:
            self._reference = self.divided.reference()
        return self._reference

    def measure(self, bench: Bench, reference: Reference, several: Sequence[Sequence[Option]]) -> list[Moved]:
        moved = []
        tracked = self.track(several, "measuring", len(several)) if len(several) > 1 else several
        for options in tracked:
            with bench.tried(options):
                moved.append(self.moved(reference))
        return moved

    def moved(self, reference: Reference) -> Moved:
        return reference.of(self.model)


def _bytes_of(observed: calibrate.Observed) -> int:
    moments = (*observed.moments.values(), *observed.gradients.values())
    return sum(each.second.nbytes for each in moments if each.second is not None)


def _shelved(units: Units, kind: str, moments: Mapping[str, Moment], device: Any) -> KeptMoments:
    """The same on disk; each is given up in memory as it is written."""
    kept = KeptMoments(units, kind, device)
    left = dict(moments)
    if isinstance(moments, dict):
        moments.clear()
    while left:
        name = next(iter(left))
        kept.keep({name: left.pop(name)})
    return kept
