"""The page of a comparison as it is kept."""

from __future__ import annotations

from collections.abc import Sequence

from eckart import report
from eckart.comparison.protocol import Kept
from eckart.evaluation import lower_is_better
from eckart.types import ComparisonRow


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
