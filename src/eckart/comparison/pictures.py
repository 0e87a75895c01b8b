"""The pictures of a comparison."""

from __future__ import annotations

from eckart import folders, report
from eckart.comparison.protocol import ComparisonFolder


def draw(folder: ComparisonFolder, lower_is_better: bool) -> list[str]:
    """Write the pictures; a note where there is nothing to draw them with."""
    try:
        pictures = report.draw(folder.rows, lower_is_better)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        return ['no plot: it needs matplotlib; pip install "eckart[report]"']
    for name, content in pictures.items():
        folders.replace_file(folder.out / name, content)
    return []
