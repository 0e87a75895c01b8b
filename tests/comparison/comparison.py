"""What a comparison asked of its processes, and what it left on the disk."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eckart.types import Comparison, ComparisonRow

Compare = Callable[..., Comparison]


def requests(tmp_path: Path) -> list[dict[str, Any]]:
    """What the processes were told since this was last asked."""
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def places(rows: list[ComparisonRow]) -> list[tuple[str, float]]:
    return [(row.method, row.keep) for row in rows]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))
