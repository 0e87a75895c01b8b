"""The page of a comparison as it is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eckart import checkpoint, report
from eckart.comparison.protocol import PROTOCOL, RESULTS, Kept, read_rows
from eckart.evaluation import lower_is_better
from eckart.report.files import PAGE, Files
from eckart.types import ComparisonRow, Sample


def comparison_page(kept: Kept, rows: Sequence[ComparisonRow]) -> bytes:
    """One HTML page of the rows of a comparison."""
    metric = next((row.metric for row in rows if row.metric), "")
    protocol = kept.protocol
    return report.comparison_page(
        rows,
        lower_is_better(metric),
        kept.notes,
        kept.source,
        f"Eckart {protocol.eckart}, torch {protocol.torch}, transformers {protocol.transformers}",
    ).encode()


def comparison_pages(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    """The page of a folder's comparison, and its pictures; the notes beside them.

    Raises:
        EckartError: what the folder holds is damaged.
    """
    kept, rows = checkpoint.read_plain(folder / PROTOCOL, Kept), read_rows(folder / RESULTS)
    smaller = lower_is_better(next((row.metric for row in rows if row.metric), ""))
    files = {PAGE: comparison_page(kept, rows)}
    return files | (report.draw(rows, smaller) if png else {}), list(kept.notes)
