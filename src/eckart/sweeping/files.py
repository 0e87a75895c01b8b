"""What a sweep leaves in its folder: `sweep.json`, the tables, and the page."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.report.files import sweep_files, table
from eckart.types import Cell, Step, Sweep

MEASURED = "measured.jsonl"
"""Each measurement, as soon as it is there: what an interrupted sweep is gone on with."""
CELLS = ("ratio", "layers", "targets", "weights", "parameters", "keep", "metric", "value", "loss", "error")


def files(made: Sweep) -> dict[str, bytes]:
    """The files by name."""
    rows = [made.dense, *made.cells, *([made.found] if made.found else [])]
    kinds = ["dense", *["cell"] * len(made.cells), "found"]
    prompts = [f"continuation_{number}" for number in range(1, len(made.prompts) + 1)]
    cells = [_cell(kind, row, prompts) for kind, row in zip(kinds, rows, strict=False)]
    found = {
        "sweep.json": (made.model_dump_json(indent=1) + "\n").encode(),
        **sweep_files(made),
        "cells.csv": table(("row", *CELLS, *prompts), cells),
    }
    if made.steps:
        found["steps.csv"] = table(tuple(Step.model_fields), [step.model_dump() for step in made.steps])
    return found


def _cell(kind: str, cell: Cell, prompts: Sequence[str]) -> dict[str, object]:
    row = cell.model_dump(exclude={"ranks", "continuations"})
    texts = dict(zip(prompts, cell.continuations, strict=False))
    return {"row": kind, **row, "weights": len(cell.ranks), **texts}
