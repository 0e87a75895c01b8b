"""The rows of a file, each with its place in it."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from eckart.types import UsageError

SEPARATOR = "<|endoftext|>"

Placed = Iterator[tuple[str, dict[str, Any]]]
"""Rows, each behind the words that say where it is."""

LARGEST = 1_000_000_000
"""Bytes that a packed file may hold."""
CHECK = "import pathlib, sys; from eckart.data import files; files.validate(pathlib.Path(sys.argv[1]))"
"""Reads a table by columns to its last value, in a process of its own: damage may end that by a signal."""
NO_DATASETS = 'needs pyarrow and datasets: pip install "eckart[eval]"'


def kind_of(path: Path) -> str | None:
    """The ending that says how to read a file, `None` where nothing here does."""
    name = path.name.lower()
    return next((kind for kind in ROWS if name.endswith(kind)), None)


def rows(path: Path) -> Placed:
    """The rows of a file of a kind that has some.

    Raises:
        UsageError: a row that cannot be read (its line is named), or the library for it is not there.
    """
    kind = kind_of(path)
    assert kind is not None
    return ROWS[kind](path)


def decoded(raw: bytes, path: Path) -> str:
    """A file's text, its lines ended by newlines alone, with no byte order mark."""
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from None
    return content.replace("\r\n", "\n").replace("\r", "\n")


def numbered(content: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(content.split("\n"), 1):
        if line.strip():
            yield number, line


def _unpacked(path: Path) -> bytes:
    """What a gzip file holds, up to `LARGEST` bytes: a small file may unpack to any size."""
    try:
        with gzip.open(path) as packed:
            content = packed.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: broken gzip ({error})") from None
    if len(content) > LARGEST:
        raise UsageError(f"{path}: more than {LARGEST / 1e9:g} GB when unpacked; give a part of it")
    return content


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: broken JSON ({getattr(error, 'msg', error)})") from None


def _object(row: object, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise UsageError(f"{where}: expected an object with a field text, or prompt and completion")
    return row


def _json_lines(content: str, path: Path) -> Placed:
    for number, line in numbered(content):
        where = f"{path}, line {number}"
        yield where, _object(_parsed(line, where), where)


def _json(path: Path) -> Placed:
    """An array of objects; or objects line by line, which many files of that ending hold."""
    content = decoded(path.read_bytes(), path)
    if not content.lstrip().startswith("["):
        yield from _json_lines(content, path)
        return
    for number, row in enumerate(_parsed(content, str(path)), 1):
        where = f"{path}, entry {number}"
        yield where, _object(row, where)


def _table(path: Path, delimiter: str) -> Placed:
    content = decoded(path.read_bytes(), path)
    head = content.partition("\n")[0]
    # Where a comma is the decimal point, tables come with semicolons.
    if delimiter == "," and "," not in head and ";" in head:
        delimiter = ";"
    table = csv.DictReader(StringIO(content), delimiter=delimiter, strict=True)
    try:
        for row in table:
            yield f"{path}, line {table.line_num}", {k: v for k, v in row.items() if v is not None}
    except csv.Error as error:
        where = f"{path}, line {table.reader.line_num}"
        raise UsageError(f"{where}: broken table ({error}); .jsonl takes any text") from None


def _columns(path: Path, read: Callable[[Path], Any]) -> Placed:
    """The rows of a table by columns, as pyarrow reads it."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise UsageError(f"{path}: {path.suffix} {NO_DATASETS}") from None
    _require_whole(path)
    try:
        table = read(path)
        rows = table.to_pylist()
    except (pa.ArrowException, OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise UsageError(f"{path}: broken {path.suffix} ({first})") from None
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _require_whole(path: Path) -> None:
    """Raises UsageError where a table by columns is damaged, or holds more than is read at once."""
    command = [sys.executable, "-P", "-c", CHECK, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        why = (
            f"reading it ended by signal {-done.returncode}"
            if done.returncode < 0
            else "".join(said[-1:]) or f"reading it ended with {done.returncode}"
        )
        raise UsageError(f"{path}: broken {path.suffix} ({why})")


def validate(path: Path) -> None:
    """End this process with what is wrong with a table by columns, if anything is."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        if kind_of(path) == ".parquet":
            groups = parquet.ParquetFile(path).metadata
            size = sum(groups.row_group(index).total_byte_size for index in range(groups.num_row_groups))
            if size > LARGEST:
                sys.exit(f"it holds {size / 1e9:.1f} GB; give a part of it")
        read = _parquet if kind_of(path) == ".parquet" else _arrow
        read(path).validate(full=True)
    except (pa.ArrowException, OSError) as error:
        sys.exit(str(error).splitlines()[0])


def _arrow(path: Path) -> Any:
    """A stream, as the datasets library keeps it, or a file, as others write it."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as content:
        try:
            return pa.ipc.open_stream(content).read_all()
        except pa.ArrowInvalid:
            return pa.ipc.open_file(content).read_all()


def _parquet(path: Path) -> Any:
    from pyarrow import parquet

    return parquet.read_table(path)


ROWS: dict[str, Callable[[Path], Placed]] = {
    ".jsonl": lambda path: _json_lines(decoded(path.read_bytes(), path), path),
    ".jsonl.gz": lambda path: _json_lines(decoded(_unpacked(path), path), path),
    ".json": _json,
    ".csv": lambda path: _table(path, ","),
    ".tsv": lambda path: _table(path, "\t"),
    ".arrow": lambda path: _columns(path, _arrow),
    ".parquet": lambda path: _columns(path, _parquet),
}
