"""What is where a folder is to be, and whether it gives way: one rule for every command that writes one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from eckart.types import ExistsError, UsageError

EXPORTED = "export.json"
"""What a graph was made of, in its folder."""
WRITTEN = (
    ("eckart.json",),
    (EXPORTED,),
    ("analysis.json", "matrices.csv"),
    ("bases.json", "report.html"),
    ("compare.json", "results.csv"),
    ("manifest.json", "report.html", "targets.csv"),
    ("request.json", "measured.jsonl"),
    ("request.json", "samples.jsonl"),
    ("request.json", "sweep.json"),
)
"""What folders that Eckart wrote have, each all of one row; another is never overwritten."""
_overwriting: ContextVar[bool] = ContextVar("overwriting", default=False)
_read: ContextVar[tuple[Path, ...]] = ContextVar("read", default=())


@contextmanager
def overwriting(wanted: bool = True, reads: Iterable[str | Path] = ()) -> Iterator[None]:
    """Whether a folder that Eckart wrote gives way to a new one, once that is complete.

    Args:
        reads: paths that the work reads, where there is anything: these never give way.
    """
    tokens = (_overwriting.set(wanted), _read.set(tuple(map(Path, reads))))
    try:
        yield
    finally:
        _overwriting.reset(tokens[0])
        _read.reset(tokens[1])


def is_written(folder: Path) -> bool:
    """Whether Eckart wrote a folder, and may put another in its place."""
    return not folder.is_symlink() and any(
        all((folder / name).is_file() for name in names) for names in WRITTEN
    )


def refuse_existing(out: Path) -> None:
    """Refuse what would not end in a new folder at `out`.

    Raises:
        ExistsError: something is already at `out`, and need not give way.
        UsageError: nothing could be put there.
    """
    try:
        taken = out.exists() or out.is_symlink()
    except OSError as error:
        raise UsageError(f"{out} cannot be made: {error.strerror or error}") from None
    if taken:
        require_giving_way(out, f"{out} exists already; give another output folder, or remove that one first")
    parent = nearest_existing(out)
    if not parent.is_dir():
        raise UsageError(f"{out} cannot be made: {parent} is not a folder")
    if not os.access(parent, os.W_OK):
        raise UsageError(f"{out} cannot be made: no permission to write in {parent}")


def require_giving_way(out: Path, otherwise: str) -> None:
    """Let pass what gives way.

    Args:
        out: there is something.
        otherwise: what to say of it where nobody wants to overwrite.

    Raises:
        ExistsError: nobody does.
        UsageError: it must stay.
    """
    if not _overwriting.get():
        raise ExistsError(otherwise, gives_way=is_written(out))
    if not is_written(out):
        raise UsageError(f"{out} is not a folder that Eckart wrote: it is not overwritten; remove it first")
    for path in _read.get():
        if path.exists() and path.resolve().is_relative_to(out.resolve()):
            raise UsageError(f"{out} is not overwritten, since {path} is read: give another output folder")


def give_way(out: Path) -> None:
    """What is at `out` and may go is gone; nothing happens where nothing is there.

    Raises:
        OSError: it cannot be moved.
    """
    refuse_existing(out)
    if out.exists():
        shutil.rmtree(put_aside(out).parent, ignore_errors=True)


def put_aside(out: Path) -> Path:
    """Move a folder into a new one beside it, so that its name is free: a crash loses nothing."""
    before = Path(tempfile.mkdtemp(prefix=f".{out.name[:32]}-before-", dir=out.parent)) / out.name
    return out.rename(before)


def nearest_existing(out: Path) -> Path:
    """The folder above it that is there."""
    return next(folder for folder in out.absolute().parents if folder.exists())
