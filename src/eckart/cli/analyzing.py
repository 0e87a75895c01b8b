"""`eckart analyze`: which weights are low-rank, and what a cut would come to."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Column, Table
from rich.text import Text

from eckart.cli.ending import errors
from eckart.cli.options import (
    Cache,
    Data,
    Debug,
    Device,
    Fields,
    Json,
    Layers,
    MaxLength,
    Model,
    Samples,
    Targets,
    filled,
    split,
    whole,
)
from eckart.cli.saying import console, print_json, say, show_notes, track
from eckart.types import MAX_LENGTH

if TYPE_CHECKING:
    from eckart.pipeline.analyze import Analyzed
    from eckart.types import Analysis, Matrix

SHARES = ("0.9", "0.95", "0.99")
"""Of the energy, in the table; all are in the files."""


def analyze(
    model: Model,
    data: Data = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for analysis.json, tables and report.html; it must not exist.",
            callback=filled,
        ),
    ] = None,
    fast: Annotated[
        bool, typer.Option("--fast", help="Only the largest singular values, a sixteenth of them.")
    ] = False,
    targets: Targets = None,
    layers: Layers = None,
    ranks: Annotated[
        str | None,
        typer.Option(
            "--ranks",
            help="That cosines are given at, by comma; default 1/8, 1/4, 1/2 and 3/4 of the smaller side.",
            callback=filled,
        ),
    ] = None,
    fields: Fields = None,
    samples: Samples = None,
    max_length: MaxLength = MAX_LENGTH,
    device: Device = "cpu",
    cache: Cache = True,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look before the cut: singular values, what ranks keep, and the size and error that a cut would have.

    Without --data weights are read one at a time and the model is not loaded: any size does.
    """
    with errors(debug):
        from eckart import pipeline
        from eckart.pipeline.compress import peak_memory_bytes

        made = pipeline.analyzed(
            model,
            out,
            data=data,
            fast=fast,
            targets=split(targets),
            layers=layers,
            ranks=None if ranks is None else whole("--ranks", ranks),
            samples=samples,
            max_length=max_length,
            fields=fields,
            device=device,
            cache=cache,
            track=track,
        )
        peak = peak_memory_bytes()
        _show(made, peak)
        print_json(as_json, _as_json(made, peak))


def _as_json(made: Analyzed, peak: int) -> dict[str, Any]:
    long = {"values", "weighted_values"}
    return {
        "out": made.out,
        "model": made.analysis.source,
        "matrices": len(made.analysis.matrices),
        "seconds": made.seconds,
        "seconds_per_matrix": made.seconds_each,
        "peak_memory_bytes": peak,
        "analysis": made.analysis.model_dump(mode="json", exclude={"matrices": {"__all__": long}}),
    }


def _show(made: Analyzed, peak: int) -> None:
    analysis = made.analysis
    say(
        f"{analysis.architecture}, {analysis.parameters:,} parameters, {analysis.bytes / 1e6:,.1f} MB; "
        f"{len(analysis.matrices)} weights with {analysis.targets_parameters:,} of them, "
        f"{analysis.embedding_parameters:,} in embeddings"
    )
    console.print(_kinds(analysis))
    console.print(_sizes(analysis))
    for tied in analysis.tied:
        say(f"tied: {' = '.join(tied.names)}, which saves {tied.saved:,} parameters")
    show_notes(analysis.notes)
    times = ", ".join(f"{shape} {taken:.2g} s" for shape, taken in made.seconds_each.items())
    say(f"a weight: {times}; {made.seconds:.1f} s in all, {peak / 1e9:.2f} GB at the peak")
    say(
        f"all of it is in {made.out}/report.html" if made.out else "for each weight, and the pictures: -o DIR"
    )


def _kinds(analysis: Analysis) -> Table:
    """A row for each kind of matrix: medians over the blocks."""
    groups: dict[tuple[str, int, int], list[Matrix]] = {}
    for matrix in analysis.matrices:
        groups.setdefault((matrix.kind, matrix.out_features, matrix.in_features), []).append(matrix)
    with_data = analysis.data is not None
    table = Table(
        Column("weight", overflow="fold"),
        "out x in",
        "count",
        *(f"rank for\n{float(share):.0%}" for share in SHARES),
        *(["95% on\nthe data"] if with_data else []),
        "stable\nrank",
        "cosine",
        *(["on the\ndata"] if with_data else []),
    )
    for (kind, out_features, in_features), group in groups.items():
        smaller = min(out_features, in_features)
        cells = [_rank([matrix.energy_ranks[share] for matrix in group], smaller) for share in SHARES]
        if with_data:
            seen = [matrix.weighted_energy_ranks for matrix in group if matrix.weighted_energy_ranks]
            cells.append(_rank([ranks["0.95"] for ranks in seen], smaller))
        cells.append(f"{median(matrix.stable_rank for matrix in group):.1f}")
        cells += _cosines(group, smaller, with_data)
        shown = [Text(cell) for cell in (kind, f"{out_features}x{in_features}", str(len(group)), *cells)]
        table.add_row(*shown)
    table.caption = "medians; cosine between the outputs before and after, for random inputs"
    return table


def _rank(ranks: list[int | None], smaller: int) -> str:
    """The median, and its share of the smaller side; what was not found is beyond all that was."""
    found = sorted(smaller + 1 if rank is None else rank for rank in ranks)
    if not found:
        return ""
    middle = found[len(found) // 2]
    return "not found" if middle > smaller else f"{middle} ({middle / smaller:.0%})"


def _cosines(group: list[Matrix], smaller: int, with_data: bool) -> list[str]:
    """The mean cosine at the rank next to half of the smaller side, and on the data."""
    near = [min(m.cosines, key=lambda cosine: abs(cosine.rank - smaller / 2)) for m in group if m.cosines]
    if not near:
        return [""] * (2 if with_data else 1)
    cells = [f"{median(cosine.random for cosine in near):.3f} at {near[0].rank}"]
    if with_data:
        seen = [cosine.activations for cosine in near if cosine.activations is not None]
        cells.append(f"{median(seen):.3f}" if seen else "")
    return cells


def _sizes(analysis: Analysis) -> Table:
    """What uniform cuts would come to."""
    with_data = analysis.data is not None
    table = Table(
        "keep of\nthe targets",
        "structure",
        "parameters",
        "keep of\nthe model",
        "MB",
        "error",
        *(["on the\ndata"] if with_data else []),
    )
    for size in analysis.sizes:
        table.add_row(
            f"{size.keep:g}",
            size.structure,
            f"{size.parameters:,}",
            f"{size.model_keep:.3f}",
            f"{size.bytes / 1e6:,.1f}",
            "not found" if size.error is None else f"{size.error:.3f}",
            *([] if not with_data else ["" if size.weighted_error is None else f"{size.weighted_error:.3f}"]),
        )
    return table
