"""`eckart compare`: many methods in one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import eckart
from eckart.cli.options import Failed, ModelOrRecipe, RecipeFile, filled, verb
from eckart.cli.saying import say, show_notes, show_table, tell, track
from eckart.recipes import verbs
from eckart.types import Comparison, ComparisonRow

LARGE = 1e5

if TYPE_CHECKING:
    from collections.abc import Sequence


@verb(verbs.Compare, "eckart compare MODEL -o table --keep 80%,60% --data FILE")
def compare(
    out: Annotated[
        str,
        typer.Option(
            "--out", "-o", help="Folder for the results; one that was begun is gone on with.", callback=filled
        ),
    ],
    model: ModelOrRecipe = None,
    recipe: RecipeFile = None,
    debug: bool = False,
    **given: Any,
) -> dict[str, Any]:
    """Many methods, the same sizes, one protocol: a table, a plot, and what each took."""
    made = eckart.compare(model, out, recipe=recipe, debug=debug, track=track, on_row=_say_row, **given)
    _show(made)
    show_notes(made.notes)
    kind = Failed if any(row.error for row in made.rows) else dict
    return kind(out=made.out, rows=[row.model_dump() for row in made.rows], notes=made.notes)


def _say_row(row: ComparisonRow) -> None:
    """A line as soon as a row is there."""
    if row.error is not None:
        say(f"{row.method} at {row.keep:g}: failed")
        return
    assert row.seconds is not None
    assert row.peak_memory_bytes is not None
    moved = ""
    if row.divergence and row.same_top is not None:
        moved = (
            f"divergence from the dense model {row.divergence:.4f}, the same top token {row.same_top:.1%}; "
        )
    say(
        f"{row.method} at {row.keep:g}: {row.metric} {_figure(row.value)}; {moved}{row.seconds:.1f} s, "
        f"{row.peak_memory_bytes / 1e9:.2f} GB at the peak"
    )


def _show(made: Comparison) -> None:
    """Methods down, sizes across, the best of each size marked."""
    dense, *rows = made.rows
    keeps = sorted({row.keep for row in rows}, reverse=True)
    best = {keep: _best([row for row in rows if row.keep == keep], made.lower_is_better) for keep in keeps}
    found = {(row.method, row.keep): row for row in rows}
    cells = [
        (method, *(_cell(found.get((method, keep)), best[keep]) for keep in keeps))
        for method in dict.fromkeys(row.method for row in rows)
    ]
    better = "lower" if made.lower_is_better else "higher"
    tell(f"{made.out}: {dense.metric}, {better} is better; dense {_figure(dense.value)}; * best at its size")
    show_table(("method", *(f"keep {keep:g}" for keep in keeps)), cells)


def _best(rows: Sequence[ComparisonRow], lower_is_better: bool) -> float | None:
    values = [row.value for row in rows if row.value is not None]
    if not values:
        return None
    return min(values) if lower_is_better else max(values)


def _cell(row: ComparisonRow | None, best: float | None) -> str:
    if row is None:
        return ""
    if row.value is None:
        return "failed"
    return f"{_figure(row.value)}{' *' if row.value == best else ''}"


def _figure(value: float | None) -> str:
    """Four places, or four digits of what is too large for them."""
    assert value is not None
    return f"{value:.4f}" if value < LARGE else f"{value:.3e}"
