"""A file, or a name, into texts. Knows formats; knows no model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from io import StringIO
from itertools import islice
from math import isfinite, nan
from pathlib import Path

from eckart.pocket import SKILLS, samples
from eckart.types import Text, UsageError

SEPARATOR = "<|endoftext|>"
POCKET_TEXTS = 1000


def read_texts(source: str, *, lines: bool = False, split: str = "train") -> list[Text]:
    """The texts of a data file, or of the built-in `pocket`, `pocket-math`, ….

    - `.jsonl`: a row a text, with a field `text`, or `prompt` and `completion`.
    - `.txt`: texts separated by `<|endoftext|>`; without one, the whole file is one text.
    - `.csv`, `.tsv`: the column `text`, or `prompt` and `completion`; a file of sentence pairs as STS-B
      ships them (seven columns, no header) gives its first sentences.

    Args:
        lines: a `.txt` without separators has a text a line instead: what an encoder reads.
        split: which of the pocket's texts; files have no splits.

    Raises:
        UsageError: no such file, an unknown kind, a broken line (its number is named), or no texts.
    """
    if is_built_in(source):
        return _pocket(source, split)
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"no such data file: {source}")
    readers: dict[str, Callable[[Path], Iterator[Text]]] = {
        ".jsonl": _jsonl,
        ".txt": lambda path: _txt(path, lines),
        ".csv": lambda path: _table(path, ","),
        ".tsv": lambda path: _table(path, "\t"),
    }
    kind = path.suffix.lower()
    if kind not in readers:
        raise UsageError(f"{source}: data comes as {', '.join(readers)}, not as {path.suffix or 'this'}")
    texts = [text for text in readers[kind](path) if text.text.strip()]
    if not texts:
        raise UsageError(f"{source} is empty: it has no text")
    return texts


def is_built_in(source: str) -> bool:
    """Whether a name stands for data that Eckart makes itself, which have splits, and not for a file."""
    return source.partition("-")[0] == "pocket" and not Path(source).exists()


def read_pairs(source: str) -> list[tuple[float, str, str]]:
    """`(score, sentence, sentence)` of a sentence-pair file as STS-B ships it, tab-separated.

    Raises:
        UsageError: no such file, or a row that is not one (its number is named).
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"no such data file: {source}")
    pairs = []
    for number, line in _lines(path):
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


def _pocket(source: str, split: str) -> list[Text]:
    skill = source.removeprefix("pocket").removeprefix("-")
    if skill and skill not in SKILLS:
        raise UsageError(
            f"{source}: the pocket's data are pocket, {', '.join(f'pocket-{s}' for s in SKILLS)}"
        )
    skills = [skill] if skill else list(SKILLS)
    streams = [samples(name, split) for name in skills]
    rows = islice(zip(*streams, strict=False), POCKET_TEXTS // len(skills))
    return [Text(sample.prompt, sample.completion) for row in rows for sample in row]


def _content(path: Path) -> str:
    """The file's text, its lines ended by newlines alone, with no byte order mark."""
    raw = path.read_bytes()
    try:
        content = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = raw.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}, line {number}: not UTF-8 text ({error.reason})") from None
    return content.replace("\r\n", "\n").replace("\r", "\n")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(_content(path).split("\n"), 1):
        if line.strip():
            yield number, line


def _jsonl(path: Path) -> Iterator[Text]:
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{where}: broken JSON ({getattr(error, 'msg', error)})") from None
        if not isinstance(row, dict):
            raise UsageError(f"{where}: expected an object with a field text, or prompt and completion")
        yield _text(row, where)


def _txt(path: Path, lines: bool) -> Iterator[Text]:
    content = _content(path)
    separator = SEPARATOR if SEPARATOR in content else "\n" if lines else None
    pieces = content.split(separator) if separator else [content]
    return (Text("", piece.strip()) for piece in pieces)


def _table(path: Path, delimiter: str) -> Iterator[Text]:
    content = _content(path)
    columns = content.partition("\n")[0].split("\t")
    if len(columns) >= 7 and not {"text", "prompt"} & set(columns):
        yield from (Text("", pair[1]) for pair in read_pairs(str(path)))
        return
    table = csv.DictReader(StringIO(content), delimiter=delimiter, strict=True)
    try:
        for row in table:
            yield _text(row, f"{path}, line {table.line_num}")
    except csv.Error as error:
        where = f"{path}, line {table.reader.line_num}"
        raise UsageError(f"{where}: broken table ({error}); .jsonl takes any text") from None


def _text(row: dict[str, str], where: str) -> Text:
    if isinstance(row.get("text"), str):
        text = Text("", row["text"])
    elif isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        text = Text(row["prompt"], row["completion"])
    else:
        raise UsageError(f"{where}: no field text, nor prompt and completion")
    # JSON can spell half of a surrogate pair, which no tokenizer takes.
    try:
        text.text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{where}: a character that is none ({error.reason})") from None
    return text
