"""`eckart bench`: speed and memory, in pairs."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import eckart
from eckart.cli.options import Model, filled, verb
from eckart.cli.saying import show_notes, show_table, tell, track
from eckart.recipes import reading, verbs
from eckart.types import Memory, Pace


@verb(verbs.Bench, "eckart bench SMALL --prompt 64")
def bench(
    model: Model,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]",
            help="What to compare with; default for a compressed model: itself, dense, with random weights.",
            callback=filled,
        ),
    ] = None,
    **given: Any,
) -> dict[str, Any]:
    """Speed and memory of a model beside another, in pairs: reading a prompt, and writing token by token."""
    options = reading.given(verbs.Bench, given).options
    race = eckart.bench(model, other, track=track, **options)
    beside = f" beside {race.other}" if race.other else ""
    tell(
        f"{race.model}{beside}: {race.device}, {race.dtype}, {race.threads} threads, medians of "
        f"{race.rounds} rounds" + (", fused" if race.fused else "") + (", compiled" if race.compiled else "")
    )
    show_table(
        ("of", "phase", "batch", "tokens/s", "other", "times as fast", "ideal", "of ideal"),
        [_cells(row) for row in race.rows],
    )
    for name, taken in ((race.model, race.memory), (race.other, race.other_memory)):
        if taken is not None:
            tell(_taken(str(name), taken))
    show_notes(race.notes)
    answer: dict[str, Any] = race.model_dump()
    return answer


def _cells(row: Pace) -> list[str]:
    cells = [row.of, row.phase, str(row.batch), f"{row.tokens_per_second:,.1f}"]
    if row.ratio is None:
        return [*cells, "", "", "", ""]
    return [
        *cells,
        f"{row.other_tokens_per_second:,.1f}",
        f"{row.ratio:.2f}",
        f"{row.ideal:.2f}",
        f"{row.of_ideal:.0%}",
    ]


def _taken(name: str, taken: Memory) -> str:
    return (
        f"{name}: weights {taken.weights_bytes / 1e6:,.1f} MB, {taken.peak_bytes / 1e6:,.1f} MB at the peak, "
        "in a process of its own"
    )
