"""A folder that appears whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from eckart.folders.giving_way import nearest_existing, put_aside, refuse_existing
from eckart.folders.owning import is_abandoned, owned
from eckart.types import EckartError

COMPANION_SUFFIXES = (".json", ".txt", ".model", ".jinja", ".tiktoken", ".vocab", ".spm")
LICENCE_NAMES = ("LICENSE", "LICENCE", "NOTICE")
LICENCE_SUFFIXES = ("", ".md", ".rst", ".pdf")
NOT_COMPANIONS = (".index.json", "adapter_config.json")
LARGEST_COMPANION = 100_000_000
PARTIAL = ".eckart-partial"
"""How the names of folders end that are not complete yet."""


def refuse_full(out: Path, needed: int) -> None:
    """Raises EckartError where `needed` bytes would not fit on the disk that `out` is on."""
    free = shutil.disk_usage(nearest_existing(out)).free
    if free < needed:
        raise EckartError(
            f"no room for {out}: it needs about {needed / 1e6:,.1f} MB, "
            f"and its disk has {free / 1e6:,.1f} MB free"
        )


@contextmanager
def appearing(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` that becomes `out` on a clean exit and vanishes on any other.

    One that a killed process left there goes too.

    Raises:
        UsageError: `out` exists.
        EckartError: it cannot be written, on a full disk say.
    """
    refuse_existing(out)
    made = [folder for folder in out.parents if not folder.exists()]
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{out.name[:32]}-"
        for left in out.parent.glob(f"{glob.escape(prefix)}????????{PARTIAL}"):
            if is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=PARTIAL, dir=out.parent))
        with owned(temporary):
            yield temporary
            _put(temporary, out)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise EckartError(f"{out} could not be written ({why}); nothing was left behind") from error
    finally:
        # After the rename the one is gone and the others are not empty: then nothing happens here.
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with suppress(OSError):
                folder.rmdir()


def settle(made: Path, out: Path) -> None:
    """A folder that is complete, on the same disk, becomes `out`.

    Raises:
        UsageError: `out` exists.
        EckartError: it cannot be put there.
    """
    try:
        _put(made, out)
    except OSError as error:
        raise EckartError(f"{out} could not be written ({error.strerror or error})") from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: until all of it is on the disk, what was there stays.

    Raises:
        EckartError: it cannot be written, on a full disk say; what was there is as it was.
    """
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        raise EckartError(f"{path} could not be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def copy_companions(source: Path, destination: Path, weights: Sequence[Path] = ()) -> None:
    """Copy what a model folder holds beside its weights (tokenizer, pooling, licence), never code.

    What `destination` already has stays as it is. A link to somewhere else is not followed, but where the hub
    keeps what a snapshot of it links to.

    Args:
        weights: files of weights in it that go along too.
    """
    inside = [source.resolve()]
    if source.resolve().parent.name == "snapshots":
        inside.append(source.resolve().parents[1] / "blobs")
    for path in sorted(source.rglob("*")):
        relative = path.relative_to(source)
        hidden = any(part.startswith(".") for part in relative.parts)
        licence = path.name.upper().startswith(LICENCE_NAMES) and path.suffix.lower() in LICENCE_SUFFIXES
        wanted = licence or path.name.endswith(COMPANION_SUFFIXES)
        wanted = wanted and not hidden and not path.name.endswith(NOT_COMPANIONS)
        if not path.is_file():
            continue
        if path not in weights and (not wanted or path.stat().st_size > LARGEST_COMPANION):
            continue
        if not any(path.resolve().is_relative_to(each) for each in inside):
            continue
        copy = destination / relative
        if copy.exists():
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)


def _put(made: Path, out: Path) -> None:
    """All of a folder on the disk, open to whom the user's mask leaves it; then it has its name."""
    mask = _umask()
    for path in made.rglob("*"):
        if path.is_file():
            _to_disk(path)
        path.chmod((0o666 if path.is_file() else 0o777) & ~mask)
    made.chmod(0o777 & ~mask)
    refuse_existing(out)
    if out.exists():
        # Two renames, of which a crash between leaves both folders there, beside the place of the one.
        before = put_aside(out)
        made.rename(out)
        shutil.rmtree(before.parent, ignore_errors=True)
    else:
        made.rename(out)


def _to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
