"""The rows of a data set of the hub, or of its cache on this disk, through `datasets`.

No code that comes with a data set is run: `datasets` from 4 on has no way to.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from eckart.data.files import NO_DATASETS, Placed
from eckart.types import UsageError

NAME = re.compile(r"(?P<name>[\w.-]+/[\w.-]+)(:(?P<config>[\w.-]+))?(@(?P<split>[\w.-]+))?")
LONGEST_REASON = 200


def is_hub_name(source: str) -> bool:
    """Whether a source may name a data set: `owner/name`, `owner/name:config`, `owner/name:config@split`."""
    return NAME.fullmatch(source) is not None and not Path(source).exists()


def hub_rows(source: str, split: str) -> Placed:
    """The rows of one split.

    Args:
        split: where the name itself has none behind an `@`.

    Raises:
        UsageError: `datasets` is not there, the data set is neither at the hub nor in the cache, it has
            several configs and none is named, or it has no such split.
    """
    match = NAME.fullmatch(source)
    assert match is not None
    try:
        import datasets
    except ModuleNotFoundError:
        raise UsageError(f"{source}: a data set of the hub {NO_DATASETS}") from None
    try:
        with without_bars():
            found = datasets.load_dataset(match["name"], match["config"], split=match["split"] or split)
    except Exception as error:  # what cannot be had is said in classes of four libraries
        words = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise UsageError(
            f"no such data: {source} is not a file, and no data set that can be loaded ({words})"
        ) from None
    for number, row in enumerate(found, 1):
        yield f"{source}, row {number}", dict(row)


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars of datasets, which are afterwards as they were."""
    import datasets
    from datasets.utils import are_progress_bars_disabled

    off = are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not off:
            datasets.enable_progress_bars()
