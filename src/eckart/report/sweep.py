"""The page of a sweep: which cuts a model bears, and what it says after each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eckart.report.page import Page
from eckart.report.words import figure, percent, plural, short
from eckart.types import Cell, Sweep


def sweep_page(sweep: Sweep) -> str:
    """One HTML page with the grid, the search and the continuations of a sweep.

    It fetches nothing and shows every prompt and every continuation as text. The same sweep gives the same
    page.

    Args:
        sweep: what `eckart sweep` found, or has found so far.
    """
    sections = []
    if sweep.cells and sweep.metric:
        sections.append(("grid", "The grid", '<div id="maps"></div>'))
        sections.append(("sizes", "Score and size", '<div id="against"></div>'))
    elif sweep.cells:
        sections.append(("grid", "What each cut leaves", '<div id="maps"></div>'))
    if sweep.steps:
        sections.append(("search", "The search", '<div id="path"></div>'))
    if sweep.prompts:
        sections.append(("said", "What each model says", '<div id="continued"></div>'))
    return Page(
        title=f"Sweep of {sweep.source}",
        kind="Eckart, layers cut by hand (LASER)",
        heading=sweep.source,
        lede=_lede(sweep),
        facts=_facts(sweep),
        data={
            "metric": sweep.metric,
            "lower": sweep.lower_is_better,
            "prompts": sweep.prompts,
            "dense": _cell(sweep.dense),
            "start": None if sweep.start is None else _cell(sweep.start),
            "cells": [_cell(cell) for cell in sweep.cells],
            "steps": [step.model_dump() for step in sweep.steps],
            "found": None if sweep.found is None else _cell(sweep.found),
        },
        script="sweep.js",
        sections=sections,
        notes=[
            *sweep.notes,
            *(f"{_named(cell)} failed: {cell.error}" for cell in sweep.cells if cell.error),
        ],
        made_with=f"Eckart {sweep.eckart}, torch {sweep.torch}, transformers {sweep.transformers}",
    ).html()


def best_cell(cells: Sequence[Cell], lower_is_better: bool) -> Cell | None:
    """The cut with the best score, the smallest of those that score alike; `None` where none has one."""
    scored = [cell for cell in cells if cell.value is not None]
    sign = 1 if lower_is_better else -1
    return min(scored, key=lambda cell: (sign * (cell.value or 0.0), cell.parameters), default=None)


def _named(cell: Cell) -> str:
    kinds = f", {cell.targets}" if cell.targets else ""
    return f"ratio {cell.ratio:g}, {cell.layers or 'all blocks'}{kinds}"


def _lede(sweep: Sweep) -> list[str]:
    dense, lede = sweep.dense, []
    best = best_cell(sweep.cells, sweep.lower_is_better)
    if best is not None and dense.value is not None and best.value is not None:
        good = [
            cell
            for cell in sweep.cells
            if cell.value is not None
            and (cell.value <= dense.value if sweep.lower_is_better else cell.value >= dense.value)
        ]
        how = (
            f"{len(good)} of {plural(len(sweep.cells), 'cut')} score at least as well as the dense model."
            if good
            else f"Each of {plural(len(sweep.cells), 'cut')} costs something."
        )
        lede.append(
            f"{how} The best, {_named(best)}, comes to {sweep.metric} {figure(best.value)} with "
            f"{percent(best.keep)} of the parameters; the dense model has {figure(dense.value)}."
        )
    elif sweep.cells and sweep.prompts:
        same = sum(cell.continuations == dense.continuations for cell in sweep.cells if not cell.error)
        lede.append(
            f"{same} of {plural(len(sweep.cells), 'cut')} continue "
            f"{'the prompt' if len(sweep.prompts) == 1 else 'every prompt'} as the dense model does."
        )
    if sweep.steps:
        taken = [step for step in sweep.steps if step.taken]
        said = f"The search took {len(taken)} of {plural(len(sweep.steps), 'trial')}"
        if sweep.found is not None and sweep.found.value is not None and dense.value is not None:
            said += (
                f": {sweep.metric} {figure(sweep.found.value)} with {percent(sweep.found.keep)} of the "
                f"parameters, where the dense model has {figure(dense.value)}, on data that was not looked at"
            )
        lede.append(said + ".")
    return lede or ["Nothing was cut."]


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    facts = [(short(sweep.dense.parameters), "parameters, dense")]
    if sweep.dense.value is not None:
        facts.append((figure(sweep.dense.value), f"{sweep.metric} of the dense model"))
    if sweep.cells:
        facts.append((str(len(sweep.cells)), "cuts tried"))
    if sweep.steps:
        facts.append((str(len(sweep.steps)), "trials of the search"))
    if sweep.found is not None:
        facts.append((percent(sweep.found.keep), "of the parameters left by the search"))
    if sweep.data:
        facts.append((sweep.data, f"data of {sweep.task}"))
    return facts


def _cell(cell: Cell) -> dict[str, Any]:
    """A cell for the scripts: how many weights were cut, without their names."""
    return {**cell.model_dump(exclude={"ranks"}), "cut": len(cell.ranks)}
