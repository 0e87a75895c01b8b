"""The picture of a comparison: true to its rows, legible, and the same every time."""

from __future__ import annotations

import hashlib
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from eckart.report import draw
from eckart.report.plot import figure
from eckart.types import ComparisonRow

MANY = ("svd", "asvd", "fwsvd", "svd-llm", "aa-svd", "kfac", "lems", "auto", "kfac:pivoted:waterfill", "x:y")


def a_row(method: str, keep: float, value: float | None, **more: Any) -> ComparisonRow:
    common: dict[str, Any] = {
        "of": "model",
        "task": "perplexity",
        "metric": "perplexity",
        "parameters": int(1000 * keep),
        "targets_parameters": int(1000 * keep) - 200,
        "seconds": 1.0,
        "peak_memory_bytes": 10**9,
    }
    return ComparisonRow(method=method, keep=keep, value=value, **(common | more))


def some_rows(methods: tuple[str, ...] = ("svd", "kfac"), worst: float = 3.0) -> list[ComparisonRow]:
    """Each method better than the one before, and dearer; the worst is `worst`, the dense model 2."""
    rows = [a_row("dense", 1.0, 2.0, seconds=0.0)]
    for place, method in enumerate(methods):
        share = (len(methods) - place) / len(methods)
        rows += [
            a_row(
                method,
                keep,
                2 + (worst - 2) * share * (1 - keep) / 0.4,
                seconds=1.0 + place,
                peak_memory_bytes=10**9 + place * 10**8,
            )
            for keep in (0.9, 0.8, 0.6)
        ]
    return rows


def titles(drawn: Any) -> list[str]:
    return [
        " ".join(axes.get_title(loc="left").replace("\N{NO-BREAK SPACE}", " ").split()) for axes in drawn.axes
    ]


def curves(axes: Any) -> dict[str, Any]:
    """The line through a method's points, by its colour."""
    return {line.get_color(): line for line in axes.get_lines() if len(line.get_xdata()) > 0}


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    return draw(some_rows(), True)


def digests() -> dict[str, str]:
    """Of the pictures of the same rows."""
    return {name: hashlib.sha256(drawn).hexdigest() for name, drawn in draw(some_rows(), True).items()}


def test_the_same_rows_give_the_same_bytes_in_another_process_and_others_do_not(
    pictures: dict[str, bytes], anew: Callable[..., Any]
) -> None:
    assert set(pictures) == {"plot.svg", "plot.png"}
    assert pictures["plot.png"].startswith(b"\x89PNG")
    script = "import json, test_plot; print(json.dumps(test_plot.digests()))"
    assert anew(script, Path(__file__).parent) == digests()
    assert draw(some_rows(worst=4.0), True) != pictures


def test_a_picture_does_not_say_when_or_by_what_it_was_made(pictures: dict[str, bytes]) -> None:
    assert not re.search(rb"dc:date|dc:creator|20\d\d-\d\d-\d\d", pictures["plot.svg"])
    assert b"tEXt" not in pictures["plot.png"]


def test_a_picture_needs_no_network(pictures: dict[str, bytes]) -> None:
    assert not re.search(rb"(href|src)=\"(?!#)|url\((?!#)", pictures["plot.svg"])


def test_every_row_with_a_value_is_a_point_at_its_place() -> None:
    rows = [*some_rows(), a_row("lost", 0.9, None, error="no"), a_row("svd", 0.5, None, error="no")]
    panels = figure(rows, True).axes
    for axes, place in zip(
        panels,
        (
            lambda row: row.parameters / 10,
            lambda row: row.seconds,
            lambda row: row.peak_memory_bytes / 1e9,
        ),
        strict=True,
    ):
        points = {tuple(point) for marks in axes.collections for point in marks.get_offsets()}
        cut = [row for row in rows if row.method != "dense" and row.value is not None]
        assert points == {(place(row), row.value) for row in cut}


def test_of_one_size_the_methods_stand_side_by_side_the_best_first() -> None:
    rows = [row for row in some_rows(("svd", "kfac", "auto")) if row.keep in (1.0, 0.8)]
    axes = figure(rows, True).axes[0]
    points = sorted(tuple(point) for marks in axes.collections for point in marks.get_offsets())
    values = {row.method: row.value for row in rows}
    assert points == [(0, values["auto"]), (1, values["kfac"]), (2, values["svd"])]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["auto", "kfac", "svd"]
    assert axes.get_xlabel() == "method, the best first; each keeps 80% of the model"
    stems = {tuple(line.get_ydata()) for line in axes.get_lines() if line.get_label() != "dense"}
    assert {(2.0, values[method]) for method in ("auto", "kfac", "svd")} <= stems
    assert axes.get_xscale() == "linear"
    better = [row.model_copy(update={"metric": "exact_match"}) for row in rows]
    labels = figure(better, False).axes[0].get_xticklabels()
    assert [label.get_text() for label in labels] == ["svd", "kfac", "auto"]


def test_the_dense_model_is_a_horizontal_line_in_every_panel() -> None:
    for axes in figure(some_rows(), True).axes:
        (dense,) = (line for line in axes.get_lines() if line.get_label() == "dense")
        assert list(dense.get_ydata()) == [2.0, 2.0]


def test_where_keep_counts_the_targets_so_does_the_picture() -> None:
    rows = [row.model_copy(update={"of": "targets"}) for row in some_rows(("svd",))]
    axes = figure(rows, True).axes[0]
    assert axes.get_xlabel() == "parameters kept, % of the targets"
    (marks,) = axes.collections
    assert [round(x) for x, _ in marks.get_offsets()] == [round(100 * n / 800) for n in (700, 600, 400)]


def test_where_something_was_rounded_sizes_are_bytes_even_of_a_single_keep() -> None:
    rows = [row for row in some_rows(("svd",)) if row.keep in (1.0, 0.8)]
    rows += [a_row("svd:int8", 0.8, 2.5, quantize="int8"), a_row("dense:int8", 1.0, 2.1, quantize="int8")]
    sizes = (2000, 1600, 800, 1000)
    rows = [row.model_copy(update={"bytes": size}) for row, size in zip(rows, sizes, strict=True)]
    axes = figure(rows, True).axes[0]
    assert axes.get_xlabel() == "bytes as saved, % of the dense model"
    # svd at 0.8 is larger than the dense model in int8, and worse.
    assert (
        titles(figure(rows, True))[0]
        == "Nothing is both smaller and better than svd:int8 at 0.8 or dense:int8"
    )
    assert sorted(x for marks in axes.collections for x, _ in marks.get_offsets()) == [40, 50, 80]


def test_methods_are_told_apart_by_more_than_colour() -> None:
    drawn = figure(some_rows(MANY), True)
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == ["dense", *MANY]
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in legend.get_lines()]
    for one, other in combinations(looks, 2):
        assert sum(a != b for a, b in zip(one, other, strict=True)) >= 2, (one, other)


def test_a_method_looks_alike_in_every_panel() -> None:
    first, *others = [curves(axes) for axes in figure(some_rows(MANY[:5]), True).axes]
    for other in others:
        assert first.keys() == other.keys()
        for colour, line in first.items():
            assert other[colour].get_linestyle() == line.get_linestyle()


@pytest.mark.parametrize(("worst", "scale"), [(21.0, "log"), (1e5, "log"), (2.5, "linear")])
def test_perplexities_that_span_much_are_on_a_logarithmic_axis(worst: float, scale: str) -> None:
    for axes in figure(some_rows(worst=worst), True).axes:
        assert axes.get_yscale() == scale


def test_shares_are_never_on_a_logarithmic_axis() -> None:
    rows = [
        row.model_copy(update={"metric": "spearman", "task": "stsb", "value": 1 / (row.value or 1) ** 5})
        for row in some_rows(worst=21.0)
    ]
    drawn = figure(rows, False)
    assert drawn.axes[0].get_yscale() == "linear"
    assert drawn.axes[0].get_ylabel() == "stsb: spearman (higher is better)"


def test_titles_say_the_point() -> None:
    assert titles(figure(some_rows(), True)) == [
        "kfac is best at every size",
        "svd is fastest: 1 s; kfac, best at 0.6, takes 2 s",
        "svd is smallest in memory: 1 GB; kfac, best at 0.6, takes 1.1 GB",
    ]
    upside_down = titles(figure(some_rows(), False))
    assert upside_down[:2] == ["svd is best at every size", "svd is fastest: 1 s, and best at 0.6"]


def test_a_title_says_where_no_method_is_best_everywhere() -> None:
    rows = [
        a_row("dense", 1.0, 2.0),
        *(a_row("a", keep, value, seconds=1234.0) for keep, value in ((0.9, 3.0), (0.8, 5.0), (0.7, 9.0))),
        *(a_row("b", keep, value, seconds=4321.0) for keep, value in ((0.9, 4.0), (0.8, 4.5), (0.7, 5.0))),
    ]
    first, second, _ = titles(figure(rows, True))
    assert first == "Best: a at 0.9; b at 0.8, 0.7"
    assert second == "a is fastest: 1,200 s; b, best at 0.7, takes 4,300 s"


@pytest.mark.parametrize(
    "rows",
    [[], [a_row("dense", 1.0, 2.0)], [a_row("dense", 1.0, 2.0), a_row("svd", 0.8, None, error="no")]],
    ids=["nothing", "dense alone", "nothing but failures"],
)
def test_a_picture_of_nothing_is_drawn_all_the_same(rows: list[ComparisonRow]) -> None:
    assert draw(rows, True)["plot.png"]
    assert titles(figure(rows, True))[0] == "Nothing was cut"


@pytest.mark.parametrize("keeps", [(1.0, 0.9, 0.8, 0.6), (1.0, 0.6)], ids=["sizes", "one size"])
@pytest.mark.parametrize("methods", [("svd",), MANY[:3], MANY, tuple(f"{m}:{'long' * 6}" for m in MANY)])
def test_no_words_lie_on_others(methods: tuple[str, ...], keeps: tuple[float, ...]) -> None:
    drawn = figure([row for row in some_rows(methods, worst=900.0) if row.keep in keeps], True)
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    words = {
        text.get_text(): text.get_window_extent()
        for axes in drawn.axes
        for text in [axes._left_title, axes.xaxis.label, axes.yaxis.label]
        if text.get_text()
    }
    words |= {f"ticks {i}": axes.xaxis.get_tightbbox() for i, axes in enumerate(drawn.axes)}
    for axis in drawn.axes:  # the label of an axis is part of its box
        words.pop(axis.get_xlabel(), None)
    words["legend"] = drawn.legends[0].get_window_extent()
    inside = drawn.bbox
    for name, box in words.items():
        assert box.x0 >= inside.x0, name
        assert box.x1 <= inside.x1, name
        assert box.y0 >= inside.y0, name
        assert box.y1 <= inside.y1, name
    for (name, one), (other, two) in combinations(words.items(), 2):
        assert not one.overlaps(two), (name, other)


def test_drawing_changes_nothing_for_others() -> None:
    before, level = dict(mpl.rcParams), logging.getLogger("matplotlib").level
    draw(some_rows(), True)
    assert dict(mpl.rcParams) == before
    assert logging.getLogger("matplotlib").level == level


def test_matplotlib_is_imported_when_something_is_drawn() -> None:
    check = "import sys, eckart.report; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
