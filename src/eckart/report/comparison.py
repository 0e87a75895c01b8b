"""The page of a comparison: what each method keeps of the model, and what it takes."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.report.page import Page
from eckart.report.plot import titles
from eckart.report.words import figure, plural, short
from eckart.types import ComparisonRow


def comparison_page(
    rows: Sequence[ComparisonRow],
    lower_is_better: bool,
    notes: Sequence[str] = (),
    source: str = "",
    made_with: str = "",
) -> str:
    """One HTML page of quality against size, time and memory; it fetches nothing.

    The same rows give the same page. Rows that failed are named, and left out of the charts.

    Args:
        rows: of one task, the dense model's first.
        lower_is_better: which way its metric is good.
        notes: what a reader should know.
        source: the model's name.
        made_with: versions.
    """
    failed = [row for row in rows if row.error is not None]
    best, fast, small = titles(rows, lower_is_better)
    return Page(
        title=f"Methods compared on {source}" if source else "Methods compared",
        kind="Eckart, methods compared",
        heading=source or "A model",
        lede=_lede(rows, best),
        facts=_facts(rows, lower_is_better),
        data={
            "rows": [row.model_dump() for row in rows],
            "lower": lower_is_better,
            "titles": {"size": best, "seconds": fast, "memory": small},
        },
        script="comparison.js",
        sections=[
            ("quality", "Quality and size", '<div id="against"></div>'),
            ("cost", "What it takes", '<div class="grid" id="taken"></div>'),
            ("rows", "All rows", '<div id="all"></div>'),
        ],
        notes=[
            *dict.fromkeys([*notes, *(f"{row.method} at {row.keep:g} failed: {row.error}" for row in failed)])
        ],
        made_with=made_with,
    ).html()


def _lede(rows: Sequence[ComparisonRow], best: str) -> list[str]:
    lede = [f"{best}."]
    dense = next((row for row in rows if row.method == "dense"), None)
    if dense is not None and dense.value is not None:
        lede.append(f"The dense model has {dense.metric} {figure(dense.value)}.")
    failed = sum(row.error is not None for row in rows)
    if failed:
        lede.append(f"{plural(failed, 'row')} failed; the notes say why.")
    return lede


def _facts(rows: Sequence[ComparisonRow], lower_is_better: bool) -> list[tuple[str, str]]:
    dense = next((row for row in rows if row.method == "dense"), None)
    cut = [row for row in rows if row.method != "dense"]
    facts = []
    if dense is not None and dense.parameters:
        facts.append((short(dense.parameters), "parameters, dense"))
    if dense is not None and dense.value is not None:
        better = "lower" if lower_is_better else "higher"
        facts.append((figure(dense.value), f"{dense.metric}, dense ({better} is better)"))
    facts.append((str(len({row.method for row in cut})), "methods"))
    facts.append(
        (", ".join(f"{keep:g}" for keep in sorted({row.keep for row in cut}, reverse=True)) or "–", "kept")
    )
    return facts
