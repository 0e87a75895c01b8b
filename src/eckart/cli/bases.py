"""`eckart bases`: what the bases of a model's weights mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from eckart.cli.ending import errors
from eckart.cli.options import Debug, Json, Model, filled, takes
from eckart.cli.saying import console, print_json, say, show_notes, track
from eckart.recipes import reading, verbs

if TYPE_CHECKING:
    from eckart.pipeline import Bases

SHOWN, SHOWN_BASES, SHOWN_TOKENS = 4, 2, 5
"""Targets in the table, bases of each, and tokens at either end of each."""


@takes(verbs.Bases)
def bases(
    model: Model,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for bases.json and bases.html; it must not exist.",
            callback=filled,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
    **given: Any,
) -> None:
    """Name what each basis of a weight reads and writes by tokens, through the unembedding.

    Meant for sides in the hidden state: those of attention weights that face the heads get tokens too where
    they are as wide, and these mean little.
    """
    with errors(debug):
        from eckart import pipeline

        options = reading.given(verbs.Bases, given).options
        made = pipeline.bases(model, out, track=track, **options)
        _show(made)
        print_json(as_json, made.as_json())


def _show(made: Bases) -> None:
    table = Table(Column("weight", overflow="fold"), "basis", "share", "reads", "writes")
    for target, found in made.targets[:SHOWN]:
        for basis in found[:SHOWN_BASES]:
            cells = [_shown(basis.reads), _shown(basis.writes)]
            table.add_row(Text(target.name), str(basis.index), f"{basis.share:.1%}", *cells)
    console.print(table)
    show_notes(made.notes)
    say(
        f"{min(SHOWN, len(made.targets))} of {len(made.targets)} weights, {SHOWN_TOKENS} tokens at most; "
        + (f"all of it is in {made.out}/bases.html and bases.json" if made.out else "for the rest, -o DIR")
        + f"; {made.seconds:.1f} s"
    )


def _shown(ends: dict[str, list[str]] | None) -> Text:
    """As it stands: a token may look like markup."""
    if ends is None:
        return Text("")
    lines = [f"{sign} {' '.join(ends[end][:SHOWN_TOKENS])}" for end, sign in (("plus", "+"), ("minus", "−"))]
    return Text("\n".join(lines))
