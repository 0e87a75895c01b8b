"""How a command ends: one short message and an exit code, 2 for a wrong request, 1 for work that failed."""

from __future__ import annotations

import math
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from eckart.cli.saying import say
from eckart.types import EckartError, UsageError

INTERRUPTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
NO_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says when it has none left, on a GPU and on the CPU."""
PATIENCE_SECONDS = 2
"""For cleaning up after an interruption, in which another one is not heard."""


class Interrupted(BaseException):
    """Somebody wants this process to stop.

    Not `KeyboardInterrupt`: where one passes through code that was compiled from a string, as dataclasses
    make some, Python ends with a signal of its own whatever exit code is asked for later.
    """


_interrupted_at = -math.inf


def interrupt(signal_number: int, frame: object) -> None:
    """Stop, and leave the cleaning up in peace: people press Ctrl-C twice, and wrappers send it on."""
    global _interrupted_at
    last, _interrupted_at = _interrupted_at, time.monotonic()
    if _interrupted_at - last > PATIENCE_SECONDS:
        raise Interrupted


@contextmanager
def errors(debug: bool) -> Iterator[None]:
    """Turn what goes wrong into one short message and an exit code: 2 for the request, 1 for the work."""
    try:
        yield
    except typer.Exit:
        raise
    except BaseException as error:
        if debug:
            traceback.print_exc()
        message, code = explained(error)
        say(f"eckart: {message}")
        raise typer.Exit(code) from None


@contextmanager
def resumable(out: str) -> Iterator[None]:
    """Say of a run that ended early that it can be gone on with, where what it finished is left."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        if kept := _kept(out):
            raise EckartError(f"interrupted; --resume goes on from {kept}") from None
        raise
    except UsageError:
        raise
    except (EckartError, MemoryError, RuntimeError) as error:
        if kept := _kept(out):
            message, _ = explained(error)
            raise EckartError(f"{message}; --resume goes on from {kept}") from error
        raise


def _kept(out: str) -> str | None:
    """Where what was finished is kept."""
    return next((work for work in (f"{out}.training", f"{out}.work") if os.path.isdir(work)), None)


def explained(error: BaseException) -> tuple[str, int]:
    """The message and the exit code of an error."""
    if isinstance(error, EckartError):
        return str(error), error.exit_code
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return "interrupted; nothing unfinished was left behind", 1
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return (
            "out of memory; try a smaller --memory (one block of the model at a time), --samples or "
            "--max-length, or --dtype bfloat16",
            1,
        )
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", 1
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"unexpected {type(error).__name__}: {first} (--debug shows where; please report it)", 1
