"""The main figures of a page as PNG files, for slides and papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from io import BytesIO
from statistics import median
from typing import TYPE_CHECKING, Any

from eckart.report.analysis import energy_sentence, energy_share, errors_at, ranks_shown
from eckart.report.compression import place_of
from eckart.report.plot import COLOURS, GRID, INK, LINES, MARKERS, drawing, scale
from eckart.report.words import figure, percent
from eckart.types import Analysis, Manifest, Matrix, TargetRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.42
"""Of a heat map, in inches."""
DIGITS_FROM = 24
"""Blocks from which on there is no room for a figure in each cell."""

Cell = tuple[str | None, int | None, str, float | None]
"""Stack, block, kind and value."""


def analysis_pictures(analysis: Analysis) -> dict[str, bytes]:
    """PNG files of an analysis: `energy.png` (a heat map), `errors.png` and `sizes.png`.

    The same analysis gives the same bytes. What there is nothing to draw of is left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    matrices = analysis.matrices
    made: dict[str, bytes] = {}
    with drawing():
        shares = [(each.stack, each.block, each.kind, energy_share(each)) for each in matrices]
        if any(share is not None for *_, share in shares):
            made["energy.png"] = _png(
                _map(shares, energy_sentence(matrices), "rank for 95% of the energy / smaller side", percent)
            )
        if matrices:
            made["errors.png"] = _png(_errors(matrices))
        if any(size.error is not None for size in analysis.sizes):
            made["sizes.png"] = _png(_sizes(analysis))
    return made


def compression_pictures(manifest: Manifest) -> dict[str, bytes]:
    """PNG files of a compression: `kept.png` (a heat map), `errors.png`, `training.png` where it was trained.

    The same manifest gives the same bytes. What there is nothing to draw of is left out.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    made: dict[str, bytes] = {}
    with drawing():
        if manifest.targets:
            kept = [
                (*place_of(each.name), each.parameters_after / max(1, each.parameters_before))
                for each in manifest.targets
            ]
            said = f"{percent(manifest.parameters.keep)} of the parameters are left"
            made["kept.png"] = _png(_map(kept, said, "parameters kept of each weight", percent))
        both = [each for each in manifest.targets if each.predicted_error and each.measured_error]
        if both:
            made["errors.png"] = _png(_predicted(both))
        if any(run.losses for run in manifest.training):
            made["training.png"] = _png(_training(manifest))
    return made


def _map(cells: Sequence[Cell], title: str, label: str, said: Callable[[float], str]) -> Figure:
    """Blocks across and kinds down, a panel for each stack."""
    stacks = list(dict.fromkeys(stack for stack, *_ in cells))
    grids = [_grid([cell[1:] for cell in cells if cell[0] == stack]) for stack in stacks]
    known = [value for *_, value in cells if value is not None]
    low, high = min(known), max(known)
    high = high if high > low else low + 1e-9
    widest = max(len(blocks) for blocks, _, _ in grids)
    tallest = sum(len(kinds) for _, kinds, _ in grids)
    drawn = _figure(max(6.0, 2.4 + CELL * widest), 1.5 + 0.7 * len(stacks) + 0.34 * tallest)
    rows = drawn.subplots(len(stacks), 1, squeeze=False, height_ratios=[len(kinds) for _, kinds, _ in grids])
    shown = None
    for (axes,), stack, (blocks, kinds, values) in zip(rows, stacks, grids, strict=True):
        shown = axes.imshow(values, vmin=low, vmax=high, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(blocks)), blocks)
        axes.set_yticks(range(len(kinds)), kinds)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(f"block of {stack}" if len(stacks) > 1 else "block")
        if len(blocks) < DIGITS_FROM:
            for row, line in enumerate(values):
                for column, value in enumerate(line):
                    if not math.isnan(value):
                        dark = (value - low) / (high - low) < 0.6
                        ink = "white" if dark else INK
                        axes.text(column, row, said(value), ha="center", va="center", color=ink, fontsize=7)
    drawn.suptitle(title, x=0.01, ha="left", fontsize=11)
    if shown is not None:
        bar = drawn.colorbar(shown, ax=list(rows.flat), shrink=0.9, aspect=18)
        bar.set_label(label)
        bar.ax.yaxis.set_major_formatter(lambda value, _: said(value))
        bar.outline.set_visible(False)
    return drawn


def _grid(
    cells: Sequence[tuple[int | None, str, float | None]],
) -> tuple[list[str], list[str], list[list[float]]]:
    blocks = list(dict.fromkeys(block for block, *_ in cells))
    kinds = list(dict.fromkeys(kind for _, kind, _ in cells))
    values = {(block, kind): value for block, kind, value in cells if value is not None}
    lines = [[values.get((block, kind), math.nan) for block in blocks] for kind in kinds]
    return ["–" if block is None else str(block) for block in blocks], kinds, lines


def _errors(matrices: Sequence[Matrix]) -> Figure:
    """The error against rank: each matrix a thin line, one colour for a kind."""
    halves = [half for each in matrices if (half := _error_at_half(each)) is not None]
    said = (
        f"At half their rank, half the matrices have lost {percent(median(halves))} or less"
        if len(halves) == len(matrices)
        else "What the leading ranks of each matrix leave"
    )
    drawn, axes = _single(said, 7.2, 4.6)
    kinds = list(dict.fromkeys(each.kind for each in matrices))
    for place, kind in enumerate(kinds):
        own = [each for each in matrices if each.kind == kind]
        look: dict[str, Any] = {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": LINES[place % len(LINES)],
        }
        for index, matrix in enumerate(own):
            ranks = ranks_shown(len(matrix.values))
            least = max(1, min(matrix.out_features, matrix.in_features))
            axes.plot(
                [0, *(100 * rank / least for rank in ranks)],
                [1, *errors_at(matrix.values, matrix.norm, ranks, matrix.exact)],
                linewidth=0.9,
                alpha=0.75,
                label="" if index else kind or matrix.name or "the matrix",
                **look,
            )
    axes.set(
        xlabel="rank, % of the smaller side", ylabel="relative Frobenius error", ylim=(0, 1), xlim=(0, 100)
    )
    _legend(axes)
    return drawn


def _error_at_half(matrix: Matrix) -> float | None:
    half = min(matrix.out_features, matrix.in_features) // 2
    if not 1 <= half <= len(matrix.values):
        return None
    return errors_at(matrix.values, matrix.norm, [half], matrix.exact)[0]


def _sizes(analysis: Analysis) -> Figure:
    known = [each for each in analysis.sizes if each.error is not None]
    keep = min((each.keep for each in known), key=lambda one: abs(one - 0.5))
    said = ", ".join(
        f"{percent(each.error or 0.0)} in {each.structure} form" for each in known if each.keep == keep
    )
    drawn, axes = _single(f"With {percent(keep)} of their parameters left: off by {said}", 6.4, 4.4)
    for place, name in enumerate(dict.fromkeys(each.structure for each in analysis.sizes)):
        own = [each for each in analysis.sizes if each.structure == name and each.error is not None]
        axes.plot(
            [each.bytes / 1e6 for each in own],
            [each.error or 0.0 for each in own],
            color=COLOURS[place],
            marker=MARKERS[place],
            linestyle=LINES[place],
            label=name,
        )
    axes.set(xlabel="size of the model, MB", ylabel="relative error of the weights")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return drawn


def _predicted(records: Sequence[TargetRecord]) -> Figure:
    off = max(abs((each.measured_error or 0.0) / (each.predicted_error or 1.0) - 1) for each in records)
    said = f"Every weight lost what was predicted, to {percent(max(off, 1e-3))}"
    drawn, axes = _single(said, 5.6, 4.8)
    kinds = list(dict.fromkeys(place_of(each.name)[2] for each in records))
    for place, kind in enumerate(kinds):
        own = [each for each in records if place_of(each.name)[2] == kind]
        axes.plot(
            [each.predicted_error or 0.0 for each in own],
            [each.measured_error or 0.0 for each in own],
            color=COLOURS[place % len(COLOURS)],
            marker=MARKERS[place % len(MARKERS)],
            linestyle="",
            label=kind,
        )
    values = [value or 0.0 for each in records for value in (each.predicted_error, each.measured_error)]
    ends = [min(values), max(values)]
    axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    axes.set(xlabel="predicted error", ylabel="measured error")
    for which in "xy":
        scale(axes, which, values)
    _legend(axes)
    return drawn


def _training(manifest: Manifest) -> Figure:
    ends = [loss for run in manifest.training for _, loss in run.losses]
    said = f"Training took the loss from {figure(ends[0])} to {figure(ends[-1])}"
    drawn, axes = _single(said, 6.4, 4.0)
    for place, run in enumerate(manifest.training):
        steps, losses = zip(*run.losses, strict=True) if run.losses else ((), ())
        axes.plot(
            steps,
            losses,
            color=COLOURS[place % len(COLOURS)],
            linestyle=LINES[place % len(LINES)],
            label=f"{place + 1}: {run.purpose}",
        )
    axes.set(xlabel="step", ylabel="loss")
    _legend(axes)
    return drawn


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _single(title: str, width: float, height: float) -> tuple[Figure, Axes]:
    drawn = _figure(width, height)
    axes = drawn.subplots()
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    return drawn, axes


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _png(drawn: Figure) -> bytes:
    content = BytesIO()
    drawn.savefig(content, format="png", dpi=150, metadata={"Software": None}, facecolor="white")
    return content.getvalue()
