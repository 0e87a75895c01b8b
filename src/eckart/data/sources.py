"""What a source of data names: a file, several, a data set elsewhere, or rows that somebody has in memory."""

from __future__ import annotations

import atexit
import glob
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from eckart.data.files import kind_of
from eckart.data.hub import is_hub_name
from eckart.data.pocket import is_built_in
from eckart.types import UsageError

MEMORY = "memory:"
"""How a name begins of rows that were in memory; their digest follows."""
SPOOL = "ECKART_SPOOL"
"""The folder that such rows are in, for this process and those that it starts."""
STANDARD_INPUT = "-"


def files_of(source: str) -> list[Path]:
    """The files of a source, in the order of their names; none of what is made, or is at the hub.

    A folder is all files in it, and below, of a kind that is read; a pattern (`*`, `?`, `[…]`) what it fits.

    Raises:
        UsageError: a folder or a pattern without such a file, or rows of a process that has ended.
    """
    path = Path(source)
    if source.startswith(MEMORY):
        kept = Path(os.environ.get(SPOOL, ""), source.removeprefix(MEMORY))
        found = [each for ending in (".jsonl", ".txt") if (each := kept.with_suffix(ending)).is_file()]
        if not found:
            raise UsageError(f"data {source} was in the memory of a process that has ended: give it again")
        return found
    if path.is_dir():
        found = [each for each in sorted(path.rglob("*")) if each.is_file() and _is_read(each)]
    elif not path.exists() and glob.has_magic(source):
        found = [Path(each) for each in sorted(glob.glob(source, recursive=True)) if _is_read(Path(each))]
    else:
        return [path] if path.is_file() else []
    if not found:
        raise UsageError(f"{source} has no file that data is read from (.jsonl, .txt, .csv, .parquet, …)")
    return found


def require_there(source: str) -> None:
    """Look whether there is a source of a name, as far as this machine can say: a hub's may be there.

    Raises:
        UsageError: it can only be a file, and is none; or a folder or a pattern without one that is read.
    """
    path = Path(source)
    if is_built_in(source) or files_of(source):
        return
    if kind_of(path) is not None or path.suffix.lower() == ".txt" or not is_hub_name(source):
        raise UsageError(f"no such data file: {source}")


def digest_of(source: str | None) -> str | None:
    """Hex SHA-256 of the files of a source; `None` of what has none, as built-in data and the hub's."""
    files = [] if source is None else files_of(source)
    if len(files) == 1:
        return _sha256(files[0])
    return hashlib.sha256("".join(map(_sha256, files)).encode()).hexdigest() if files else None


def remember(rows: Any) -> str:
    """Keep rows for as long as this process lives, and say by which name they go.

    Args:
        rows: texts, `(prompt, completion)`, or mappings of fields, as a list, a `datasets.Dataset` or any
            other iterable has them.

    Raises:
        UsageError: not one of these, or no row at all.
    """
    if isinstance(rows, (bytes, Mapping)) or not isinstance(rows, Iterable):
        raise UsageError(
            f"data is of type {type(rows).__name__}: give a file, a name, or a list of texts, of prompts "
            "with completions, or of rows"
        )
    lines = [json.dumps(_row(row, number), default=str) for number, row in enumerate(rows, 1)]
    if not lines:
        raise UsageError("data is empty: it has no row")
    return _kept("\n".join(lines).encode(), ".jsonl")


def named(data: Any) -> str | None:
    """The name of data, however they are given: as a name, as a path, as rows, or as `-` for standard input.

    Raises:
        UsageError: none of these.
    """
    if data is None:
        return None
    if isinstance(data, os.PathLike):
        data = os.fspath(data)
    if not isinstance(data, str):
        return remember(data)
    return _read_standard_input() if data == STANDARD_INPUT else data


def _read_standard_input() -> str:
    """Keep what comes through standard input, rows of JSON or plain text, and say by which name it goes.

    Raises:
        UsageError: nothing comes.
    """
    content = sys.stdin.buffer.read()
    if not content.strip():
        raise UsageError("--data -: nothing came through standard input")
    return _kept(content, ".jsonl" if content.lstrip()[:1] == b"{" else ".txt")


def _row(row: Any, number: int) -> dict[str, Any]:
    if isinstance(row, str):
        return {"text": row}
    if isinstance(row, Mapping):
        return {str(name): value for name, value in row.items()}
    if isinstance(row, (tuple, list)) and len(row) == 2 and all(isinstance(each, str) for each in row):
        return {"prompt": row[0], "completion": row[1]}
    raise UsageError(
        f"data, row {number} is of type {type(row).__name__}: a row is a text, a prompt with its "
        "completion, or a mapping of fields"
    )


def _kept(content: bytes, ending: str) -> str:
    if SPOOL not in os.environ or not Path(os.environ[SPOOL]).is_dir():
        os.environ[SPOOL] = tempfile.mkdtemp(prefix="eckart-data-")
        atexit.register(shutil.rmtree, os.environ[SPOOL], ignore_errors=True)
    name = hashlib.sha256(content).hexdigest()[:16]
    Path(os.environ[SPOOL], name).with_suffix(ending).write_bytes(content)
    return f"{MEMORY}{name}"


def _is_read(path: Path) -> bool:
    hidden = path.name.startswith(".")
    return not hidden and (kind_of(path) is not None or path.name.lower().endswith(".txt"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
