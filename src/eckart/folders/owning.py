"""One process at a time works in a folder: a lock on the folder itself, which ends with the process."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from eckart.types import UsageError

fcntl: Any = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None
"""`None` where there are no such locks, as on Windows."""


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Have a folder for oneself while this lasts, where the file system has locks.

    Raises:
        UsageError: a process that lives has it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if not _locked(descriptor):
            raise UsageError(
                f"{folder}: another process is at work there; wait until it is done, or stop it and go on "
                "with --resume"
            )
        yield
    finally:
        os.close(descriptor)


def is_abandoned(folder: Path) -> bool:
    """Whether a folder that processes own has none that lives."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            return fcntl is not None and _locked(descriptor)
        finally:
            os.close(descriptor)
    return False


def _locked(descriptor: int) -> bool:
    """Whether the lock is had; on a file system without locks everybody has it."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
