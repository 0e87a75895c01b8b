"""Where what can be made again is kept."""

from __future__ import annotations

import os
from pathlib import Path

CACHE = "ECKART_CACHE"


def cache_dir() -> Path:
    """`$ECKART_CACHE`, or `~/.cache/eckart`.

    Raises:
        RuntimeError: there is no home.
    """
    given = os.environ.get(CACHE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "eckart"
