"""The picture of a comparison: what each method keeps of the model, and what it takes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from eckart.types import ComparisonRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
"""Okabe and Ito's, which colour-blind people tell apart, without yellow, which is pale on white."""
MARKERS = "osD^vPX<>"
LINES = ("-", "--", "-.", ":")
INK, GRID = "#222222", "#dddddd"
SPREAD = 3.0
"""Values whose largest is more than so many times their smallest are drawn on a logarithmic axis."""
SMALLEST_MARKER, LARGEST_MARKER = 6.5, 11.0
LONGEST = 22
"""Letters of a name that has room below a panel."""
MOST_TICKS = 8
STEPS = (1, 2, 2.5, 5, 10)
"""Between ticks, times a power of ten."""
LETTERS = 50
"""In a line of a panel's title, at most."""
WIDTH, HEIGHT = 14.0, 5.2
"""Of the picture, in inches."""
HANDLE, LETTER = 0.7, 0.09
"""Of a line and of a letter in the legend, in inches."""


@dataclass(frozen=True)
class Line:
    """The rows of one method that have a value, the largest first, and how they are drawn."""

    method: str
    rows: list[ComparisonRow]
    colour: str
    marker: str
    style: str


@dataclass(frozen=True)
class Panel:
    """What a panel is drawn against, and the point that it makes."""

    title: str
    label: str
    of: Callable[[ComparisonRow], float]


def draw(rows: Sequence[ComparisonRow], lower_is_better: bool) -> dict[str, bytes]:
    """Draw quality against parameters kept, seconds and peak memory, a line a method.

    Of one size alone the first panel has the methods side by side, the best first. The same rows give the
    same bytes. Rows without a value are left out; the row of method `dense` is a horizontal line.

    Args:
        rows: of one task.
        lower_is_better: which way its metric is good.

    Returns:
        `plot.svg` and `plot.png`.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    with drawing():
        drawn = figure(rows, lower_is_better)
        return {f"plot.{kind}": _saved(drawn, kind) for kind in ("svg", "png")}


@contextmanager
def drawing() -> Iterator[None]:
    """In matplotlib's settings for one picture, which are as they were afterwards.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    with _quiet():
        from matplotlib import rc_context

        style: Any = {
            "svg.hashsalt": "eckart",
            "font.family": ["DejaVu Sans"],
            "font.size": 10,
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.edgecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "xtick.color": INK,
            "ytick.color": INK,
        }
        with rc_context(style):
            yield


def figure(rows: Sequence[ComparisonRow], lower_is_better: bool) -> Figure:
    """The picture itself: three panels and one legend."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    dense = next((row for row in rows if row.method == "dense"), None)
    lines = _lines(rows)
    drawn = Figure(figsize=(WIDTH, HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.12, wspace=0.03))
    panels = drawn.subplots(1, 3, sharey=True)
    made = _panels(lines, dense, lower_is_better)
    one = _one_size(lines)
    titles = [wrap(panel.title, LETTERS) for panel in made]
    for axes, panel, title in zip(panels, made, titles, strict=True):
        _draw(axes, panel, lines, dense, joined=not one)
        # Titles stand on the axes: with as many lines each, they begin at one height.
        empty = [""] * (max(map(len, titles)) - len(title))
        axes.set_title("\n".join(title + empty), fontsize=11, loc="left")
    keeps = sorted({100 * row.keep for line in lines for row in line.rows})
    if one:
        _name_methods(panels[0], made[0], lines, dense)
    elif 0 < len(keeps) <= MOST_TICKS and not _in_bytes(lines):
        panels[0].set_xticks(keeps, [f"{keep:g}" for keep in keeps])
    metric = next((row.metric for row in rows if row.metric), "value")
    task = rows[0].task if rows else ""
    named = metric if metric == task else f"{task}: {metric}"
    panels[0].set_ylabel(f"{named} ({'lower' if lower_is_better else 'higher'} is better)")
    scale(panels[0], "y", [row.value for row in rows if row.value is not None], lower_is_better)
    handles, labels = panels[0].get_legend_handles_labels()
    longest = max(map(len, labels), default=0)
    drawn.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=max(1, int(WIDTH / (HANDLE + LETTER * longest))),
        frameon=False,
        numpoints=1,
        handlelength=3,
    )
    return drawn


def titles(rows: Sequence[ComparisonRow], lower_is_better: bool) -> list[str]:
    """The points of the three panels, in words: of quality against size, of time and of memory."""
    dense = next((row for row in rows if row.method == "dense"), None)
    return [panel.title for panel in _panels(_lines(rows), dense, lower_is_better)]


def _lines(rows: Sequence[ComparisonRow]) -> list[Line]:
    methods = [method for method in dict.fromkeys(row.method for row in rows) if method != "dense"]
    lines = []
    for index, method in enumerate(methods):
        # A method has its look by its place, also where another has no value to show.
        own = [row for row in rows if row.method == method and row.value is not None]
        if own:
            lines.append(
                Line(
                    method,
                    sorted(own, key=lambda row: -row.keep),
                    COLOURS[index % len(COLOURS)],
                    MARKERS[index % len(MARKERS)],
                    LINES[index % len(LINES)],
                )
            )
    return lines


def _panels(lines: Sequence[Line], dense: ComparisonRow | None, lower_is_better: bool) -> list[Panel]:
    of_targets = bool(dense and dense.of == "targets")
    in_bytes = _in_bytes(lines)

    def size_of(row: ComparisonRow) -> int:
        return (row.bytes if in_bytes else row.targets_parameters if of_targets else row.parameters) or 0

    whole = size_of(dense) if dense else 0

    def kept(row: ComparisonRow) -> float:
        return 100 * size_of(row) / whole if whole else 100 * row.keep

    def seconds(row: ComparisonRow) -> float:
        return row.seconds or 0.0

    def memory(row: ComparisonRow) -> float:
        return (row.peak_memory_bytes or 0) / 1e9

    best = _best(lines, lower_is_better)
    one = _one_size(lines)
    of_what = f"% of the {'targets' if of_targets else 'model'}"
    label = "bytes as saved, % of the dense model" if in_bytes else f"parameters kept, {of_what}"
    size = Panel(_front(lines, kept, lower_is_better) if in_bytes else _who_is_best(best), label, kept)
    if one:
        sign = 1 if lower_is_better else -1
        order = sorted(lines, key=lambda line: sign * _value(line.rows[0]))
        places = {line.method: place for place, line in enumerate(order)}
        only = kept(order[0].rows[0])
        label = f"method, the best first; each keeps {only:.3g}{of_what}"
        size = Panel(size.title, label, lambda row: places[row.method])
    marked = "" if one else " (larger marker: more kept)"
    return [
        size,
        Panel(_who_takes_least(lines, best, seconds, "fastest", "s"), f"seconds to make it{marked}", seconds),
        Panel(
            _who_takes_least(lines, best, memory, "smallest in memory", "GB"),
            f"peak memory to make it, GB{marked}",
            memory,
        ),
    ]


def _in_bytes(lines: Sequence[Line]) -> bool:
    """Whether something was rounded, so that parameters say little of the size."""
    return any(row.quantize for line in lines for row in line.rows)


def _one_size(lines: Sequence[Line]) -> bool:
    """Whether all was cut to one size, so that there is no line to draw."""
    return not _in_bytes(lines) and len({row.keep for line in lines for row in line.rows}) == 1


def _value(row: ComparisonRow) -> float:
    assert row.value is not None
    return row.value


def _best(lines: Sequence[Line], lower_is_better: bool) -> dict[float, str]:
    """The method with the best value at each size, the largest size first."""
    sign = -1 if lower_is_better else 1
    best: dict[float, tuple[float, str]] = {}
    for line in lines:
        for row in line.rows:
            quality = sign * _value(row)
            if row.keep < 1 and (row.keep not in best or quality > best[row.keep][0]):
                best[row.keep] = quality, line.method
    return {keep: best[keep][1] for keep in sorted(best, reverse=True)}


def _who_is_best(best: dict[float, str]) -> str:
    if not best:
        return "Nothing was cut"
    winners = list(dict.fromkeys(best.values()))
    if len(winners) == 1:
        at = f"at keep {next(iter(best)):g}" if len(best) == 1 else "at every size"
        return f"{winners[0]} is best {at}"
    said = {
        method: ", ".join(f"{keep:g}" for keep, winner in best.items() if winner == method)
        for method in winners
    }
    return "Best: " + "; ".join(f"{method} at {keeps}" for method, keeps in said.items())


def _front(lines: Sequence[Line], kept: Callable[[ComparisonRow], float], lower_is_better: bool) -> str:
    """Whom nobody beats in size and quality both, the smallest first."""
    sign = 1 if lower_is_better else -1
    front: list[ComparisonRow] = []
    for row in sorted(
        (row for line in lines for row in line.rows), key=lambda row: (kept(row), sign * _value(row))
    ):
        if not front or sign * _value(row) < sign * _value(front[-1]):
            front.append(row)
    names = [row.method if row.keep == 1 else f"{row.method} at\u00a0{row.keep:g}" for row in front]
    return (
        f"Nothing is both smaller and better than {' or '.join(names)}" if names else "Nothing was measured"
    )


def _who_takes_least(
    lines: Sequence[Line],
    best: dict[float, str],
    of: Callable[[ComparisonRow], float],
    what: str,
    unit: str,
) -> str:
    """Who is cheapest, beside who is best at the smallest size that was reached."""
    most = {line.method: max(map(of, line.rows)) for line in lines}
    if not best:
        return f"Nothing to compare in {unit}"
    cheapest, smallest = min(most, key=lambda method: most[method]), min(best)
    winner = best[smallest]
    first = f"{cheapest} is {what}: {_rounded(most[cheapest])}\u00a0{unit}"
    if winner == cheapest:
        return f"{first}, and best at\u00a0{smallest:g}"
    return f"{first}; {winner}, best at\u00a0{smallest:g}, takes {_rounded(most[winner])}\u00a0{unit}"


def _rounded(value: float) -> str:
    """Two digits, and never an exponent."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _name_methods(axes: Axes, panel: Panel, lines: Sequence[Line], dense: ComparisonRow | None) -> None:
    """Methods side by side, each with a stem from the dense model's value."""
    rows = sorted((line.rows[0] for line in lines), key=panel.of)
    slanted = sum(len(row.method) for row in rows) > LETTERS
    # Of names longer than this the panels would have no room: the legend alone has them.
    short = max(len(row.method) for row in rows) <= LONGEST
    axes.set_xscale("linear")
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_xticks(
        [panel.of(row) for row in rows],
        [row.method if short else "" for row in rows],
        rotation=35 if slanted else 0,
        ha="right" if slanted else "center",
    )
    axes.grid(visible=False, axis="x")
    if dense is not None and dense.value is not None:
        for line in lines:
            ends = [dense.value, _value(line.rows[0])]
            axes.plot([panel.of(line.rows[0])] * 2, ends, color=line.colour, linewidth=1.6, zorder=1.5)


def _draw(axes: Axes, panel: Panel, lines: Sequence[Line], dense: ComparisonRow | None, joined: bool) -> None:
    if dense is not None and dense.value is not None:
        axes.axhline(dense.value, color=INK, linewidth=1.2, linestyle=(0, (1, 1.5)), label="dense", zorder=1)
    sizes = [row.keep for line in lines for row in line.rows]
    for line in lines:
        x, y = [panel.of(row) for row in line.rows], [_value(row) for row in line.rows]
        look: dict[str, Any] = {"color": line.colour, "zorder": 2}
        axes.plot(x, y, linestyle=line.style, linewidth=1.6, **look)
        areas = [_marker(row.keep, sizes) ** 2 for row in line.rows]
        axes.scatter(x, y, areas, marker=line.marker, edgecolors="white", linewidths=0.8, **look)
        style = line.style if joined else ""
        axes.plot([], [], linestyle=style, marker=line.marker, markersize=8, label=line.method, **look)
    axes.set_xlabel(panel.label)
    axes.grid(color=GRID, linewidth=0.6, which="major")
    axes.set_axisbelow(True)
    scale(axes, "x", [panel.of(row) for line in lines for row in line.rows])


def _marker(keep: float, sizes: Sequence[float]) -> float:
    """Larger where more is kept."""
    low, high = min(sizes), max(sizes)
    share = (keep - low) / (high - low) if high > low else 0.5
    return SMALLEST_MARKER + share * (LARGEST_MARKER - SMALLEST_MARKER)


def scale(axes: Axes, which: str, values: Sequence[float], logarithmic: bool = True) -> None:
    """A logarithmic axis with plain numbers on it where the values span much, else a linear one."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    if not (logarithmic and values and min(values) > 0 and max(values) > SPREAD * min(values)):
        axis.set_major_locator(MaxNLocator(MOST_TICKS, steps=STEPS))
        return
    axes.set(**{f"{which}scale": "log"})
    decades = max(values) / min(values)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 1e3 else (1.0,), numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _saved(figure: Figure, kind: str) -> bytes:
    content = BytesIO()
    # What a picture says of itself would be another on another day, or with another matplotlib.
    about = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    figure.savefig(content, format=kind, dpi=150, metadata=about, facecolor="white")
    return content.getvalue()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what matplotlib has to say about its cache of fonts."""
    logger = logging.getLogger("matplotlib")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
