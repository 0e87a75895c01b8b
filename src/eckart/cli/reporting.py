"""`eckart report`: a page of what a folder holds."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated, Any

import typer

import eckart
from eckart.cli.options import filled, verb
from eckart.cli.saying import show_notes, tell, track
from eckart.compression.folder.strangers import said_of
from eckart.types import UsageError


@verb(None, "eckart report SMALL -o page")
def report(
    path: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="A compressed folder, or one that analyze, bases, compare or sweep wrote.",
            callback=filled,
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for report.html and its data; it must not exist. Default beside the data, but for a "
            "compressed folder.",
            callback=filled,
        ),
    ] = None,
    dense: Annotated[
        str | None,
        typer.Option(
            "--dense",
            help="The model that a compressed one came from, to continue prompts too.",
            callback=filled,
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", metavar="TEXT", help="What a compressed model is to continue; may be repeated."
        ),
    ] = None,
    png: Annotated[bool, typer.Option("--png", help="Draw the main figures as PNG files too.")] = False,
    device: Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1.")] = "cpu",
) -> dict[str, Any]:
    """One HTML page of what a folder holds, which opens anywhere and offline, and its figures as data."""
    if not os.path.isdir(path):
        raise UsageError(said_of(path))
    made = eckart.describe(path, out, dense=dense, prompts=prompt or [], png=png, device=device, track=track)
    show_notes(made.notes)
    tell(f"{made.out}: {', '.join(made.files)}; {made.seconds:.1f} s")
    return asdict(made)
