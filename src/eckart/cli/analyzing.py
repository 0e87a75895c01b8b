"""`eckart analyze`: which weights are low-rank, and what a cut would come to."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eckart.cli.options import Model, filled, verb
from eckart.cli.saying import show_notes, show_table, tell, track
from eckart.recipes import reading, verbs

if TYPE_CHECKING:
    from eckart.pipeline.analyze import Analyzed
    from eckart.types import Analysis, Cosine, Matrix

SHARES = ("0.9", "0.95", "0.99")
"""Of the energy, in the table; all are in the files."""


@verb(verbs.Analyze, "eckart analyze MODEL -o look")
def analyze(
    model: Model,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for analysis.json, tables and report.html; it must not exist.",
            callback=filled,
        ),
    ] = None,
    **given: Any,
) -> dict[str, Any]:
    """Look before the cut: singular values, what ranks keep, and the size and error that a cut would have.

    Without --data weights are read one at a time and the model is not loaded: any size does.
    """
    from eckart.evaluation.machine import peak_memory_bytes
    from eckart.pipeline.analyze import analyzed

    options = reading.given(verbs.Analyze, given).options
    made = analyzed(model, out, track=track, **options)
    peak = peak_memory_bytes()
    _show(made, peak)
    return _as_json(made, peak)


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
    tell(
        f"{analysis.architecture}, {analysis.parameters:,} parameters, {analysis.bytes / 1e6:,.1f} MB; "
        f"{len(analysis.matrices)} weights with {analysis.targets_parameters:,} of them, "
        f"{analysis.embedding_parameters:,} in embeddings"
    )
    _show_kinds(analysis)
    if analysis.data is not None:
        _show_on_data(analysis)
    _show_sizes(analysis)
    for tied in analysis.tied:
        tell(f"tied: {' = '.join(tied.names)}, which saves {tied.saved:,} parameters")
    show_notes(analysis.notes)
    times = ", ".join(f"{shape} {taken:.2g} s" for shape, taken in made.seconds_each.items())
    tell(f"a weight: {times}; {made.seconds:.1f} s in all, {peak / 1e9:.2f} GB at the peak")
    tell(
        f"all of it is in {made.out}/report.html" if made.out else "for each weight, and the pictures: -o DIR"
    )


def _groups(analysis: Analysis) -> dict[tuple[str, int, int], list[Matrix]]:
    """Matrices of one kind and one shape, by the shortest ending that no other kind has."""
    kinds = {matrix.kind for matrix in analysis.matrices}
    names = {kind: _ending(kind, kinds - {kind}) for kind in kinds}
    groups: dict[tuple[str, int, int], list[Matrix]] = {}
    for matrix in analysis.matrices:
        key = (names[matrix.kind], matrix.out_features, matrix.in_features)
        groups.setdefault(key, []).append(matrix)
    return groups


def _ending(kind: str, others: set[str]) -> str:
    parts = kind.split(".")
    endings = (".".join(parts[at:]) for at in range(len(parts) - 1, -1, -1))
    return next(
        (end for end in endings if not any(f".{other}".endswith(f".{end}") for other in others)), kind
    )


def _show_kinds(analysis: Analysis) -> None:
    """A row for each kind of matrix: medians over the blocks."""
    rows = []
    for (kind, out_features, in_features), group in _groups(analysis).items():
        cells = [_rank(group, [matrix.energy_ranks[share] for matrix in group]) for share in SHARES]
        cells.append(f"{median(matrix.stable_rank for matrix in group):.1f}")
        middle = [cosine for matrix in group if (cosine := _middle(matrix))]
        cells.append(f"{_median([each.random for each in middle])} at {middle[0].rank}" if middle else "")
        rows.append((kind, f"{out_features}x{in_features}, {len(group)}", *cells))
    shares = (f"{float(share):.0%}" for share in SHARES)
    show_table(
        ("weight", "out x in,\nhow many", *shares, "stable\nrank", "cosine"),
        rows,
        caption="medians: the rank that keeps 90, 95 and 99% of the energy, and its share of the smaller "
        "side; the cosine between outputs before and after at a rank, for random inputs",
    )


def _show_on_data(analysis: Analysis) -> None:
    """The same as the data weigh the weights."""
    rows = []
    for (kind, _, _), group in _groups(analysis).items():
        ranks = [matrix.weighted_energy_ranks for matrix in group if matrix.weighted_energy_ranks]
        cells = [_rank(group, [each[share] for each in ranks]) for share in SHARES]
        middle = [cosine for matrix in group if (cosine := _middle(matrix))]
        cells += [
            str(middle[0].rank) if middle else "",
            _median([each.activations for each in middle if each.activations is not None]),
            _median([each.weighted for each in middle if each.weighted is not None]),
        ]
        rows.append((kind, *cells))
    shares = (f"{float(share):.0%}" for share in SHARES)
    show_table(
        ("weight", *shares, "rank", "cosine of\nthe SVD", "of the best\nfor the data"),
        rows,
        caption=f"the same on {analysis.tokens:,} tokens of the data",
    )


def _middle(matrix: Matrix) -> Cosine | None:
    """The cosine at the rank next to half of the smaller side."""
    half = min(matrix.out_features, matrix.in_features) / 2
    return min(matrix.cosines, key=lambda cosine: abs(cosine.rank - half), default=None)


def _rank(group: list[Matrix], ranks: list[int | None]) -> str:
    """The median, and its share of the smaller side; what was not found is beyond all that was."""
    smaller = min(group[0].out_features, group[0].in_features)
    found = sorted(smaller + 1 if rank is None else rank for rank in ranks)
    if not found:
        return ""
    middle = found[len(found) // 2]
    return f"> {len(group[0].values)}" if middle > smaller else f"{middle} {middle / smaller:.0%}"


def _median(values: list[float]) -> str:
    return f"{median(values):.3f}" if values else ""


def _show_sizes(analysis: Analysis) -> None:
    """What uniform cuts would come to."""
    sizes = analysis.sizes
    columns = {
        "error": [size.error for size in sizes],
        "error on\nthe data": [size.weighted_error for size in sizes],
    }
    shown = {head: column for head, column in columns.items() if any(each is not None for each in column)}
    head = ("keep of\nthe targets", "structure", "parameters", "keep of\nthe model", "MB")
    rows = [
        (
            f"{size.keep:g}",
            size.structure,
            f"{size.parameters:,}",
            f"{size.model_keep:.3f}",
            f"{size.bytes / 1e6:,.1f}",
            *("" if (value := column[index]) is None else f"{value:.3f}" for column in shown.values()),
        )
        for index, size in enumerate(sizes)
    ]
    show_table((*head, *shown), rows)
