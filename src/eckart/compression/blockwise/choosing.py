"""Ranks for a model of which one block is in memory: cut models walk side by side through the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from eckart import calibrate, checkpoint, linalg
from eckart.compression.bench import Ranks
from eckart.compression.blockwise.course import OUTSIDE, Course
from eckart.compression.search import Found, Search
from eckart.evaluation import Moved, Reference
from eckart.evaluation.divergence import REFERENCE_BYTES, rows_of
from eckart.model import replacing, text
from eckart.types import Candidate, Factors, Target

CHOSEN = "chosen"
STREAMS = 8
"""Cut models that walk side by side."""


class Choice:
    """Measures cuts of a model on held-out data, and finds its ranks, once.

    Attributes:
        reference: what the dense model says; `None` where nothing is measured.
    """

    def __init__(self, course: Course) -> None:
        self.course = course
        self.reference = self._reference()
        self.search = Search(course.bench, self.reference, self._measure)

    def ranks(self, found: Found | None) -> Found:
        """Those that the recipe asks for, where they are not known.

        What was chosen is kept: a run that is gone on with does not choose again.
        """
        units = self.course.units
        if units.has(CHOSEN, "ranks"):
            _, words = units.get(CHOSEN, "ranks")
            return Found(words["ranks"], [Candidate.model_validate(each) for each in words["candidates"]])
        found = found or self.search.ranks_for(self.course.recipe)
        candidates = [each.model_dump() for each in found.candidates]
        units.put(CHOSEN, "ranks", {}, {"ranks": found.ranks, "candidates": candidates})
        return found

    def delivered(self) -> Moved | None:
        """How far the model that was written is from the dense one, where that is measured."""
        if self.reference is None:
            return None
        self.course.recall_all()
        with self.course.clock.of("measure"):
            return self.reference.moved(self._through(self.reference.batches, self.reference.part))

    def _reference(self) -> Reference | None:
        batches, size = [], 0
        for batch in self.course.divided.held_out():
            batches.append(batch)
            size += 4 * self.course.columns * rows_of(batch)
            if size > REFERENCE_BYTES:
                break
        if not batches:
            return None
        reference = Reference(batches)
        self._through(batches, lambda index, output: reference.keep(self.course.model, output))
        reference.begin()
        return reference

    def _through(self, batches: Sequence[text.Batch], give: Callable[[int, Any], Any]) -> list[Any]:
        """What the model as it is now gives to each batch."""
        course = self.course
        with ExitStack() as stack:
            spill = stack.enter_context(checkpoint.Spill(course.work, course.portion.waiting))
            walk = stack.enter_context(
                calibrate.Walk(course.model, course.blocks, batches, shelf=spill, give=give)
            )
            for block in course.track(walk.path(), "measuring", len(course.order)):
                with course.brought(block):
                    walk.step()
            return [walk.given[index] for index in range(len(batches))]

    def _measure(self, several: Sequence[Ranks]) -> list[Moved]:
        moved: list[Moved] = []
        for at in range(0, len(several), STREAMS):
            moved += self._side_by_side(several[at : at + STREAMS])
        return moved

    def _side_by_side(self, several: Sequence[Ranks]) -> list[Moved]:
        course, reference = self.course, self.reference
        assert reference is not None
        with ExitStack() as stack:
            spill = stack.enter_context(checkpoint.Spill(course.work, course.portion.waiting))
            walks: list[tuple[calibrate.Walk, dict[str, int | None]]] = []
            for ranks in several:
                walk = calibrate.Walk(
                    course.model, course.blocks, reference.batches, shelf=spill, give=reference.part
                )
                walks.append((stack.enter_context(walk), dict(zip(course.names, ranks, strict=True))))
            for block in course.track(walks[0][0].path(), "measuring", len(course.order)):
                name = course.streamed.name_of(block)
                # Behind the last block the head runs, in the same step.
                here = [*course.at[name], *(course.at[OUTSIDE] if name == course.order[-1] else [])]
                with course.brought(block):
                    pairs = self._pairs(here, [wanted for _, wanted in walks])
                    for walk, wanted in walks:
                        with replacing.stand_ins(course.model, self._cuts(pairs, wanted)):
                            walk.step()
            count = range(len(reference.batches))
            return [reference.moved([walk.given[index] for index in count]) for walk, _ in walks]

    def _pairs(
        self, targets: Sequence[Target], several: Sequence[dict[str, int | None]]
    ) -> dict[str, tuple[Any, Any]]:
        """Factors of each target at the largest rank that one of the cuts has: those of less are parts."""
        pairs = {}
        for target in targets:
            ranks = [rank for wanted in several if (rank := wanted[target.name]) is not None]
            if ranks:
                weight = self.course.bench.weight(target.name)
                U, V = self.course.bench.decomposition(target).factors(weight, max(ranks))
                pairs[target.name] = U.float(), V.float()
        return pairs

    def _cuts(
        self, pairs: dict[str, tuple[Any, Any]], wanted: dict[str, int | None]
    ) -> Iterator[tuple[str, Any]]:
        for name, (U, V) in pairs.items():
            if (rank := wanted[name]) is not None:
                yield name, linalg.reconstruct(Factors("lowrank", U[:, :rank], V[:rank]))
