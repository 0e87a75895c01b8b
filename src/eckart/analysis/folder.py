"""An analysis on the disk: the whole of it, its tables, and its page."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from math import sqrt
from pathlib import Path
from typing import Any

from eckart import folders
from eckart.analysis.spectra import Spectra
from eckart.report.files import analysis_files
from eckart.types import Analysis, Matrix, Spectrum

DIGITS = 12
"""Significant ones in `analysis.json`: errors at nearly full rank, where `1 − Σσ²/‖W‖²` cancels, are good to
1e-6 even when they are worked out from it."""
SHOWN = 7
"""In the tables, where errors stand themselves."""


def write(analysis: Analysis, spectra: Sequence[Spectra], out: Path, png: bool = False) -> None:
    """Write a folder that appears whole or not at all: `analysis.json`, four tables and `report.html`.

    Args:
        png: pictures too.

    Raises:
        UsageError: `out` exists.
        EckartError: it cannot be written.
    """
    rounded = _rounded(analysis.model_dump(mode="json"))
    # So that the page is the one that `eckart report` makes of the file.
    kept = Analysis.model_validate(rounded)
    with folders.appearing(out) as folder:
        written = json.dumps(rounded, allow_nan=False, ensure_ascii=False)
        (folder / "analysis.json").write_text(written + "\n", encoding="utf-8")
        _table(folder / "matrices.csv", (_scalars(matrix) for matrix in analysis.matrices))
        _table(folder / "spectra.csv", (row for each in spectra for row in _values(each)))
        _table(
            folder / "cosines.csv",
            (
                {"name": matrix.name, **cosine.model_dump()}
                for matrix in analysis.matrices
                for cosine in matrix.cosines
            ),
            ("name", "rank", "random", "activations", "weighted"),
        )
        _table(folder / "sizes.csv", (size.model_dump() for size in analysis.sizes))
        for name, content in analysis_files(kept, png).items():
            (folder / name).write_bytes(content)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


def _scalars(matrix: Matrix) -> dict[str, Any]:
    """A matrix in a row."""
    row = matrix.model_dump(
        exclude={
            "values",
            "weighted_values",
            "energy_ranks",
            "weighted_energy_ranks",
            "break_even",
            "cosines",
        }
    )
    row |= {f"rank_{share}": rank for share, rank in matrix.energy_ranks.items()}
    weighted = matrix.weighted_energy_ranks or dict.fromkeys(matrix.energy_ranks)
    row |= {f"weighted_rank_{share}": rank for share, rank in weighted.items()}
    return row | {f"break_even_{structure}": rank for structure, rank in matrix.break_even.items()}


def _values(each: Spectra) -> Iterable[dict[str, Any]]:
    """A singular value in a row, with the relative error at the rank that it is the last value of."""
    plain, weighted = _errors(each.plain), [] if each.weighted is None else _errors(each.weighted)
    for index, (one, other) in enumerate(zip_longest(plain, weighted, fillvalue=(None, None)), 1):
        yield {
            "name": each.matrix.name,
            "rank": index,
            "value": one[0],
            "error": one[1],
            "weighted_value": other[0],
            "weighted_error": other[1],
        }


def _errors(found: Spectrum) -> list[tuple[float, float]]:
    whole = float(found.tail[0]) or 1.0
    tail = found.tail[1:].tolist()
    return [(value, sqrt(left / whole)) for value, left in zip(found.values.tolist(), tail, strict=True)]


def _table(path: Path, rows: Iterable[dict[str, Any]], names: Sequence[str] | None = None) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if names:
            writer.writerow(names)
        for index, row in enumerate(rows):
            if not index and not names:
                writer.writerow(row)
            writer.writerow(
                f"{value:.{SHOWN}g}" if isinstance(value, float) else value for value in row.values()
            )
