"""`eckart bases`: what the bases of a model's weights mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

import eckart
from eckart.cli.options import Model, filled, verb
from eckart.cli.saying import show_notes, show_table, tell, track
from eckart.recipes import reading, verbs

if TYPE_CHECKING:
    from eckart.analysis.bases import Bases

SHOWN, SHOWN_BASES, SHOWN_TOKENS = 4, 2, 5
"""Targets in the table, bases of each, and tokens at either end of each."""


@verb(verbs.Bases, "eckart bases MODEL -o meaning")
def bases(
    model: Model,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for bases.json and report.html; it must not exist.",
            callback=filled,
        ),
    ] = None,
    **given: Any,
) -> dict[str, Any]:
    """Name what each basis of a weight reads and writes by tokens, through the unembedding.

    Meant for sides in the hidden state: those of attention weights that face the heads get tokens too where
    they are as wide, and these mean little.
    """
    options = reading.given(verbs.Bases, given).options
    made = eckart.bases(model, out, track=track, **options)
    _show(made)
    return made.as_json()


def _show(made: Bases) -> None:
    rows = [
        (target.name, str(basis.index), f"{basis.share:.1%}", _shown(basis.reads), _shown(basis.writes))
        for target, found in made.targets[:SHOWN]
        for basis in found[:SHOWN_BASES]
    ]
    show_table(("weight", "basis", "share", "reads", "writes"), rows)
    show_notes(made.notes)
    tell(
        f"{min(SHOWN, len(made.targets))} of {len(made.targets)} weights, {SHOWN_TOKENS} tokens at most; "
        + (f"all of it is in {made.out}/report.html and bases.json" if made.out else "for the rest, -o DIR")
        + f"; {made.seconds:.1f} s"
    )


def _shown(ends: dict[str, list[str]] | None) -> str:
    """The tokens at either end of a basis."""
    if ends is None:
        return ""
    return "\n".join(
        f"{sign} {' '.join(ends[end][:SHOWN_TOKENS])}" for end, sign in (("plus", "+"), ("minus", "−"))
    )
