"""What a call from Python says while it works: a bar where somebody looks, and a line in the log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm
from transformers.utils.logging import is_progress_bar_enabled

from eckart.types import Result

LOG = logging.getLogger("eckart")


def shown(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """The `Track` of a call that was given none.

    A bar in a notebook or on a terminal, unless transformers' own bars are off
    (`transformers.utils.logging.disable_progress_bar`). The log `eckart` has a line for each step, at level
    `INFO`.
    """
    started = time.monotonic()
    seen = is_progress_bar_enabled() and (_in_notebook() or sys.stderr.isatty())
    yield from tqdm(items, description, total, leave=False, disable=not seen)
    LOG.info("%s: %d in %.1f s", description, total, time.monotonic() - started)


def logged(result: Result) -> Result:
    """The result, once its warnings and notes are in the log."""
    for warning in result.warnings:
        LOG.warning(warning)
    for note in result.manifest.notes:
        LOG.info(note)
    return result


def _in_notebook() -> bool:
    """Whether a kernel of Jupyter runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")
