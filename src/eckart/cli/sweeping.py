"""`eckart sweep`: LASER, many truncated models in one table."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

import eckart
from eckart.cli.options import Failed, Model, filled, verb
from eckart.cli.saying import plain, say, show_notes, show_table, tell, track
from eckart.recipes import reading, verbs
from eckart.types import Cell, Sweep

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGE = 1e5


@verb(verbs.Sweep, "eckart sweep MODEL -o table --ratios 0.5,0.1 --task perplexity --data FILE")
def sweep(
    model: Model,
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="Folder for the results; one that was begun is gone on with.", callback=filled
        ),
    ],
    debug: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """LASER: truncate layers and matrices at many ratios; scores, sizes and texts side by side."""
    started = time.perf_counter()
    options = reading.given(verbs.Sweep, given).options
    save = options.get("save")
    made = eckart.sweep(model, out, debug=debug, track=track, on_cell=_say_cell, **options)
    seconds = time.perf_counter() - started
    if made.cells:
        _show_grid(made, out)
    if made.found is not None:
        _show_search(made)
    _show_continuations(made)
    show_notes(made.notes)
    if save is not None:
        tell(f"{save}: saved, {'dense' if options.get('merge') else 'compressed'}")
    rows = [made.dense, *made.cells, *([made.found] if made.found else [])]
    kind = Failed if any(row.error for row in rows) else dict
    return kind(
        out=out,
        saved=save,
        dense=made.dense.model_dump(),
        cells=[row.model_dump() for row in made.cells],
        steps=[step.model_dump() for step in made.steps],
        found=made.found and made.found.model_dump(),
        notes=made.notes,
        seconds=seconds,
    )


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
    tell(f"{out}: {what}in brackets the parameters left; * best")
    ratios = list(dict.fromkeys(cell.ratio for cell in made.cells))
    for kind in dict.fromkeys(cell.targets for cell in made.cells):
        cells = {(cell.layers, cell.ratio): cell for cell in made.cells if cell.targets == kind}
        best = _best(list(cells.values()), made.lower_is_better)
        rows = [
            (layers or "all", *(_shown(cells[layers, ratio], best) for ratio in ratios))
            for layers in dict.fromkeys(cell.layers for cell in cells.values())
        ]
        show_table(("layers", *(f"ratio {ratio:g}" for ratio in ratios)), rows, title=kind or "")


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
    total = made.dense.parameters
    tell(f"search: {len(taken)} matrices taken in {len(made.steps)} trials")
    if taken:
        rows = []
        for step in taken:
            assert step.value is not None
            size = f"{step.parameters / total:.1%}"
            rows.append(
                (f"{step.stack}.{step.block}", step.kind, f"{step.ratio:g}", f"{step.value:.4f}", size)
            )
        show_table(("block", "matrix", "ratio", "score", "left"), rows)
    tell(
        f"found: {made.metric} {_figure(made.found) or 'failed'}, dense {_figure(made.dense)}, both on what "
        f"the search did not look at; {made.found.keep:.1%} of the parameters left"
    )


def _show_continuations(made: Sweep) -> None:
    """For each prompt what every model wrote, the dense one first."""
    found = [] if made.found is None else [("found", made.found)]
    rows = [(_name(cell), cell) for cell in (made.dense, *made.cells)] + found
    for index, prompt in enumerate(made.prompts):
        texts = [
            (name, _in_a_line(cell.continuations[index]) if cell.continuations else "failed")
            for name, cell in rows
        ]
        show_table(("model", "continuation"), texts, title=_in_a_line(prompt), lines=True)


def _in_a_line(text: str) -> str:
    """A text without its line breaks, which are shown."""
    return plain(text).replace("\n", "\\n")
