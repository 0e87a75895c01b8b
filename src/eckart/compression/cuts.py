"""What a cut came to: a record for each target, and how far the model has moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from eckart import structures
from eckart.compression.search import Found, allowed
from eckart.evaluation import Moved, Reference
from eckart.types import Candidate, EckartError, HeldOut, Recipe, TargetRecord

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

    def measured(self, reference: Reference, moved: Moved) -> Cut:
        """The same with how far the model is from the dense one now, on data that nothing was fitted to.

        Raises:
            EckartError: it answers with what is not finite.
        """
        if not isfinite(moved.loss + moved.divergence):
            raise EckartError(
                "the compressed model answers held-out data with values that are not finite: it overflows in "
                "its dtype, as the dense one may; try another --dtype, or a larger --keep"
            )
        candidates = self.held_out.candidates if self.held_out else []
        return Cut(self.records, _held_out(reference, moved, candidates), self.notes)

    def merged(self) -> Cut:
        """The same once the factors were multiplied out."""
        records = [
            record.model_copy(
                update={
                    "option": record.option.model_copy(update={"structure": "dense"}),
                    "parameters_after": record.parameters_before,
                }
            )
            for record in self.records
        ]
        return Cut(records, self.held_out, [*self.notes, MERGED])


def held_out(reference: Reference | None, moved: Moved | None, found: Found) -> HeldOut | None:
    """What was measured on data that nothing was calibrated on, where something was."""
    if reference is None or moved is None:
        return None
    return _held_out(reference, moved, found.candidates)


def _held_out(reference: Reference, moved: Moved, candidates: list[Candidate]) -> HeldOut:
    return HeldOut(
        tokens=reference.tokens,
        before=reference.before.loss,
        after=moved.loss,
        divergence=moved.divergence,
        candidates=candidates,
    )


def rounding_notes(recipe: Recipe, measured: HeldOut | None, reference: Reference | None) -> list[str]:
    """What rounding made of a loss that a limit was set to: it comes after the search."""
    if recipe.quantize is None or recipe.max_loss is None or measured is None or reference is None:
        return []
    if all(structures.find(name).needs_bits for name in recipe.structures):
        return []
    limit = allowed(reference, recipe.max_loss)
    where = "within" if measured.after <= limit else "above"
    return [
        f"the size was searched before the rounding to {recipe.quantize}; with it the held-out loss is "
        f"{measured.after:.4f}, {where} the limit of {limit:.4f}"
    ]
