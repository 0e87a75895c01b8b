"""`eckart sweep`: LASER, many truncated models in one table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from eckart.cli.ending import errors
from eckart.cli.options import (
    TASKS_HELP,
    AllowCodeExecution,
    Data,
    Debug,
    Device,
    Dtype,
    Fields,
    Json,
    Limit,
    MaxNewTokens,
    Merge,
    Model,
    PromptsAtOnce,
    filled,
    numbers,
)
from eckart.cli.saying import console, print_json, say, show_notes, track
from eckart.types import Cell, Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE = 1e5


def _each_filled(parameter: typer.CallbackParam, values: list[str] | None) -> list[str] | None:
    for value in values or []:
        filled(parameter, value)
    return values


def sweep(
    model: Model,
    ratios: Annotated[
        str,
        typer.Option(
            "--ratios", help="Ranks to try, by comma, as shares of the smaller side.", callback=filled
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="Folder for the results; one that was begun is gone on with.", callback=filled
        ),
    ],
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            help="A choice of blocks, as top:4, 0-3 or 5; top:1..12 is twelve choices. May be repeated; "
            "default top:1..12, or as far as the model goes; of --search alone every block.",
            callback=_each_filled,
        ),
    ] = None,
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--targets",
            help="A choice of kinds, module-name endings or globs by comma. May be repeated; default all.",
            callback=_each_filled,
        ),
    ] = None,
    structure: Annotated[
        str,
        typer.Option("--structure", help="What a cut weight is counted and saved as: lowrank or pivoted."),
    ] = "lowrank",
    task: Annotated[
        str | None, typer.Option("--task", help=f"What to measure: {TASKS_HELP}", callback=filled)
    ] = None,
    data: Data = None,
    fields: Fields = None,
    limit: Limit = None,
    max_length: Annotated[
        int | None, typer.Option("--max-length", help="Tokens at once at most, as for evaluate.")
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    batch: PromptsAtOnce = None,
    allow_code_execution: AllowCodeExecution = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help="A text that every model continues, greedily. May be repeated.",
            callback=_each_filled,
        ),
    ] = None,
    continuation: Annotated[
        int, typer.Option("--continuation", help="Tokens that a prompt is continued by.")
    ] = 40,
    search: Annotated[
        bool,
        typer.Option(
            "--search",
            help="The paper's greedy search, matrix by matrix from the last block, on every fifth text; all "
            "else is then measured on the others.",
        ),
    ] = False,
    grid: Annotated[
        bool | None,
        typer.Option("--grid/--no-grid", help="Try every ratio with every choice; default without --search."),
    ] = None,
    save: Annotated[
        str | None,
        typer.Option(
            "--save",
            help="A folder for one of the models: what the search found, else the best, or --cell.",
            callback=filled,
        ),
    ] = None,
    cell: Annotated[
        str | None,
        typer.Option(
            "--cell",
            metavar="RATIO:LAYERS[:TARGETS]",
            help="Which one to save, as 0.25:top:2, or best.",
            callback=filled,
        ),
    ] = None,
    merge: Merge = False,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """LASER: truncate layers and matrices at many ratios; scores, sizes and texts side by side."""
    with errors(debug):
        from eckart import pipeline

        started = time.perf_counter()
        made = pipeline.sweep(
            model,
            out,
            ratios=numbers("--ratios", ratios),
            layers=layers,
            targets=targets,
            structure=structure,
            task=task,
            data=data,
            fields=fields,
            limit=limit,
            max_length=max_length,
            max_new_tokens=max_new_tokens,
            batch=batch,
            allow_code_execution=allow_code_execution,
            prompts=prompt or [],
            continuation=continuation,
            search=search,
            grid=grid,
            save=save,
            cell=cell,
            merge=merge,
            device=device,
            dtype=dtype,
            debug=debug,
            track=track,
            on_cell=_say_cell,
        )
        seconds = time.perf_counter() - started
        if made.cells:
            _show_grid(made, out)
        if made.found is not None:
            _show_search(made)
        _show_continuations(made)
        show_notes(made.notes)
        if save is not None:
            say(f"{save}: saved, {'dense' if merge else 'compressed'}")
        rows = [made.dense, *made.cells, *([made.found] if made.found else [])]
        print_json(
            as_json,
            {
                "out": out,
                "saved": save,
                "dense": made.dense.model_dump(),
                "cells": [row.model_dump() for row in made.cells],
                "steps": [step.model_dump() for step in made.steps],
                "found": made.found and made.found.model_dump(),
                "notes": made.notes,
                "seconds": seconds,
            },
        )
        if any(row.error for row in rows):
            raise typer.Exit(1)


def _say_cell(cell: Cell) -> None:
    """A line as soon as a model is measured."""
    figure = "failed" if cell.error is not None else _figure(cell)
    say(f"{_name(cell)}: {figure}{figure and ', '}{cell.keep:.1%} left")


def _name(cell: Cell) -> str:
    if not cell.ranks:
        return "dense"
    return " ".join(part for part in (f"{cell.ratio:g}", cell.layers, cell.targets) if part)


def _figure(cell: Cell) -> str:
    """Four places, or four digits of what is too large for them; nothing without a task."""
    if cell.value is None:
        return ""
    return f"{cell.value:.4f}" if abs(cell.value) < LARGE else f"{cell.value:.3e}"


def _show_grid(made: Sweep, out: str) -> None:
    """Layers down, ratios across; the best score of each choice of kinds marked."""
    better = "lower" if made.lower_is_better else "higher"
    what = "" if made.metric is None else f"{made.metric}, {better} is better; dense {_figure(made.dense)}; "
    say(f"{out}: {what}in brackets the parameters left; * best")
    ratios = list(dict.fromkeys(cell.ratio for cell in made.cells))
    for kind in dict.fromkeys(cell.targets for cell in made.cells):
        cells = {(cell.layers, cell.ratio): cell for cell in made.cells if cell.targets == kind}
        best = _best(list(cells.values()), made.lower_is_better)
        table = Table("layers", *(f"ratio {ratio:g}" for ratio in ratios), title=Text(kind) if kind else None)
        for layers in dict.fromkeys(cell.layers for cell in cells.values()):
            row = [cells[layers, ratio] for ratio in ratios]
            # As text: names may hold what rich takes for markup.
            table.add_row(Text(layers or "all"), *(Text(_shown(cell, best)) for cell in row))
        console.print(table)


def _best(cells: Sequence[Cell], lower_is_better: bool) -> float | None:
    values = [cell.value for cell in cells if cell.value is not None]
    if not values:
        return None
    return min(values) if lower_is_better else max(values)


def _shown(cell: Cell, best: float | None) -> str:
    if cell.error is not None:
        return "failed"
    mark = "* " if cell.value is not None and cell.value == best else ""
    return f"{mark}{_figure(cell)} ({cell.keep:.1%})".strip()


def _show_search(made: Sweep) -> None:
    """What the search took, and what that is worth on data it did not look at."""
    assert made.found is not None
    taken = [step for step in made.steps if step.taken]
    table = Table("block", "matrix", "ratio", "score", "left")
    total = made.dense.parameters
    for step in taken:
        assert step.value is not None
        stack = Text(f"{step.stack}.{step.block}")
        size = f"{step.parameters / total:.1%}"
        table.add_row(stack, Text(step.kind), f"{step.ratio:g}", f"{step.value:.4f}", size)
    say(f"search: {len(taken)} matrices taken in {len(made.steps)} trials")
    if taken:
        console.print(table)
    say(
        f"found: {made.metric} {_figure(made.found) or 'failed'}, dense {_figure(made.dense)}, both on what "
        f"the search did not look at; {made.found.keep:.1%} of the parameters left"
    )


def _show_continuations(made: Sweep) -> None:
    """For each prompt what every model wrote, the dense one first."""
    found = [] if made.found is None else [("found", made.found)]
    rows = [(_name(cell), cell) for cell in (made.dense, *made.cells)] + found
    for index, prompt in enumerate(made.prompts):
        table = Table("model", "continuation", title=Text(_plain(prompt)), show_lines=True)
        for name, cell in rows:
            text = _plain(cell.continuations[index]) if cell.continuations else "failed"
            table.add_row(Text(name), Text(text))
        console.print(table)


def _plain(text: str) -> str:
    """A text in one line, in which nothing that steers a terminal is left."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
