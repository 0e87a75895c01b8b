"""`eckart bench`: speed and memory, in pairs."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from eckart.cli.ending import errors
from eckart.cli.options import Debug, Device, Dtype, Json, Model, filled, whole
from eckart.cli.saying import console, print_json, say, show_notes, track
from eckart.types import Memory, Pace


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
    batch: Annotated[
        str, typer.Option("--batch", help="Sequences at once, by comma.", callback=filled)
    ] = "1",
    prompt: Annotated[
        int, typer.Option("--prompt", help="Tokens to read, and in the cache when writing begins.")
    ] = 256,
    new: Annotated[int, typer.Option("--new", help="Tokens to write in a round.")] = 16,
    rounds: Annotated[int, typer.Option("--rounds", help="Each is both models once; medians are shown.")] = 7,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    fuse: Annotated[
        bool, typer.Option("--fuse", help="Compute one V for what reads the same input, as eckart.fuse does.")
    ] = False,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile both models by torch, on a GPU with its graphs.")
    ] = False,
    memory: Annotated[
        bool,
        typer.Option("--memory/--no-memory", help="Measure peak memory too, in a process for each model."),
    ] = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Speed and memory of a model beside another, in pairs: reading a prompt, and writing token by token."""
    with errors(debug):
        from eckart import pipeline

        race = pipeline.bench(
            model,
            other,
            batches=whole("--batch", batch),
            tokens=prompt,
            new=new,
            rounds=rounds,
            device=device,
            dtype=dtype,
            fuse=fuse,
            compiled=compiled,
            memory=memory,
            track=track,
        )
        beside = f" beside {race.other}" if race.other else ""
        say(
            f"{race.model}{beside}: {race.device}, {race.dtype}, {race.threads} threads, medians of "
            f"{race.rounds} rounds"
            + (", fused" if race.fused else "")
            + (", compiled" if race.compiled else "")
        )
        table = Table("of", "phase", "batch", "tokens/s", "other", "times as fast", "ideal", "of ideal")
        for row in race.rows:
            table.add_row(*_cells(row))
        console.print(table)
        for name, taken in ((race.model, race.memory), (race.other, race.other_memory)):
            if taken is not None:
                say(_taken(str(name), taken))
        show_notes(race.notes)
        print_json(as_json, race.model_dump())


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
