"""A source into texts, rows or sentence pairs, whatever it comes as."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from typing import Any

from eckart.data.files import ROWS, SEPARATOR, Placed, decoded, kind_of, numbered, rows
from eckart.data.hub import hub_rows, is_hub_name
from eckart.data.pocket import POCKET_TEXTS, is_built_in, pocket_texts
from eckart.data.shapes import parse_fields, text_of
from eckart.data.sources import MEMORY, files_of
from eckart.types import On, Text, UsageError, require_on

MADE_TOKENS = 64
"""Of a built-in text at least: so many texts are made that a run need not read one twice."""


def read_texts(
    source: str,
    *,
    lines: bool = False,
    split: str = "train",
    fields: str | None = None,
    on: On = "answers",
    count: int = POCKET_TEXTS,
) -> list[Text]:
    """The texts of a data file, of a data set of the hub, or of the built-in `pocket`, `pocket-math`, ….

    - `.jsonl`, `.jsonl.gz`, `.json` (an array, or a row a line), `.arrow`, `.parquet`, `owner/name` and
      `owner/name:config` at the hub: a row a text, as the table of shapes makes it (`data/shapes.py`).
    - a folder, or a pattern as `texts/*.jsonl`: all files of these kinds.
    - `.txt`: texts separated by `<|endoftext|>`; without one, the whole file is one text.
    - `.csv`, `.tsv`: the same from named columns; a file of sentence pairs as STS-B ships them (seven
      columns, no header) gives its first sentences.

    Args:
        lines: a `.txt` without separators has a text a line instead: what an encoder reads.
        split: which of the pocket's texts, or of a data set's; files have no splits.
        fields: `PROMPT,COMPLETION` or `TEXT`: the names of the fields to take, as they stand.
        on: what the loss of a chat is of.
        count: how many of the pocket's texts.

    Raises:
        UsageError: no such file, an unknown kind, a broken row (its place is named), or no texts.
    """
    named = parse_fields(fields)
    require_on(on)
    if is_built_in(source):
        return pocket_texts(source, split, count)
    with _by_its_name(source) as files:
        found = [text for file in files or [source] for text in _texts(file, lines, split, named, fields)]
    texts = [text for text in found if text.text.strip()]
    if not texts:
        raise UsageError(f"{source} is empty: it has no text")
    return [replace(text, whole=True) if text.messages else text for text in texts] if on == "all" else texts


def _texts(
    source: str, lines: bool, split: str, named: tuple[str, ...], fields: str | None
) -> Iterator[Text]:
    """Of one file, or of a data set of the hub."""
    if source.lower().endswith(".txt"):
        if named:
            raise UsageError(f"--fields {fields}: {source} has no fields")
        return _txt(_file(source), lines)
    if not named and _is_pairs(source):
        return (Text("", pair[1]) for pair in read_pairs(source))
    return (text_of(row, where, named) for where, row in _placed(source, split))


@contextmanager
def _by_its_name(source: str) -> Iterator[list[str]]:
    """The files of a source; where they are kept for it alone, errors say its name and not theirs."""
    files = [str(file) for file in files_of(source)]
    try:
        yield files
    except UsageError as error:
        if not source.startswith(MEMORY):
            raise
        raise UsageError(str(error).replace(files[0], "data")) from None


def texts_of(
    source: str,
    generates: bool,
    fields: str | None = None,
    on: On = "answers",
    samples: int | None = None,
    tokens: int | None = None,
) -> list[Text]:
    """The texts of a source for a model: to calibrate on, to train on or to analyse with.

    Args:
        generates: whether the model writes text; one that only reads has a line of plain text at a time.
        samples: texts at most. Built-in data are made: as many as this, or as `tokens` may ask for.
    """
    if is_built_in(source):
        count = samples or (tokens and -(-tokens // MADE_TOKENS))
        return read_texts(source, count=count) if count else read_texts(source)
    return read_texts(source, lines=not generates, fields=fields, on=on)[:samples]


def read_rows(source: str, *, split: str = "train") -> list[dict[str, Any]]:
    """The rows of a source as they stand, for whoever needs more of them than a text.

    Raises:
        UsageError: as for `read_texts`; plain text has no rows.
    """
    with _by_its_name(source) as files:
        found = [row for file in files or [source] for _, row in _placed(file, split)]
    if not found:
        raise UsageError(f"{source} is empty: it has no rows")
    return found


def read_pairs(source: str) -> list[tuple[float, str, str]]:
    """`(score, sentence, sentence)` of a sentence-pair file as STS-B ships it, tab-separated.

    Raises:
        UsageError: no such file, or a row that is not one (its number is named).
    """
    path = _file(source)
    pairs = []
    for number, line in numbered(decoded(path.read_bytes(), path)):
        row = line.split("\t")
        try:
            pair = float(row[4]), row[5], row[6]
        except (ValueError, IndexError):
            pair = nan, "", ""
        if not isfinite(pair[0]):
            raise UsageError(
                f"{source}, line {number}: expected genre, file, year, id, score and two sentences, "
                "separated by tabs"
            )
        pairs.append(pair)
    if not pairs:
        raise UsageError(f"{source} is empty: it has no sentence pairs")
    return pairs


def _file(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"no such data file: {source}")
    return path


def _placed(source: str, split: str) -> Placed:
    """The rows with their places."""
    path = Path(source)
    if kind_of(path) is None and is_hub_name(source):
        return hub_rows(source, split)
    if kind_of(_file(source)) is None:
        raise UsageError(
            f"{source}: data comes as {', '.join([*ROWS, '.txt'])}, not as {path.suffix or 'this'}"
        )
    return rows(path)


def _is_pairs(source: str) -> bool:
    """Whether a table is one of sentence pairs: seven columns, and none of the names that texts have."""
    if kind_of(Path(source)) not in (".csv", ".tsv"):
        return False
    path = _file(source)
    columns = decoded(path.read_bytes(), path).partition("\n")[0].split("\t")
    return len(columns) >= 7 and not {"text", "prompt"} & set(columns)


def _txt(path: Path, lines: bool) -> Iterator[Text]:
    content = decoded(path.read_bytes(), path)
    separator = SEPARATOR if SEPARATOR in content else "\n" if lines else None
    pieces = content.split(separator) if separator else [content]
    return (Text("", piece.strip()) for piece in pieces)
