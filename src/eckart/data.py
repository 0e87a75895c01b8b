"""A file, or a name, into texts. Knows formats; knows no model."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from itertools import islice
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
        UsageError: no such file, an unknown kind, a broken row (its number is named), or no texts.
    """
    if source.partition("-")[0] == "pocket" and not Path(source).exists():
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
    if path.suffix not in readers:
        raise UsageError(f"{source}: data comes as {', '.join(readers)}, not as {path.suffix or 'this'}")
    try:
        texts = [text for text in readers[path.suffix](path) if text.text.strip()]
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text: byte {error.start} is {error.reason}") from None
    if not texts:
        raise UsageError(f"{source} is empty: it has no text")
    return texts


def read_pairs(source: str) -> list[tuple[float, str, str]]:
    """`(score, sentence, sentence)` of a sentence-pair file as STS-B ships it, tab-separated.

    Raises:
        UsageError: no such file, or a row that is not one (its number is named).
    """
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"no such data file: {source}")
    pairs = []
    with path.open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE), 1):
            try:
                pairs.append((float(row[4]), row[5], row[6]))
            except (ValueError, IndexError):
                raise UsageError(
                    f"{source}, line {number}: expected genre, file, year, id, score and two sentences, "
                    "separated by tabs"
                ) from None
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


def _jsonl(path: Path) -> Iterator[Text]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UsageError(f"{where}: broken JSON ({error.msg})") from None
            if not isinstance(row, dict):
                raise UsageError(f"{where}: expected an object with a field text, or prompt and completion")
            yield _text(row, where)


def _txt(path: Path, lines: bool) -> Iterator[Text]:
    content = path.read_text(encoding="utf-8")
    if SEPARATOR in content:
        pieces = content.split(SEPARATOR)
    else:
        pieces = content.splitlines() if lines else [content]
    return (Text("", piece.strip()) for piece in pieces)


def _table(path: Path, delimiter: str) -> Iterator[Text]:
    with path.open(encoding="utf-8", newline="") as file:
        first = file.readline()
        file.seek(0)
        if first.count("\t") >= 6 and "text" not in first.rstrip("\n").split("\t"):
            yield from (Text("", pair[1]) for pair in read_pairs(str(path)))
            return
        for number, row in enumerate(csv.DictReader(file, delimiter=delimiter), 2):
            yield _text(row, f"{path}, line {number}")


def _text(row: dict[str, str], where: str) -> Text:
    if isinstance(row.get("text"), str):
        return Text("", row["text"])
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        return Text(row["prompt"], row["completion"])
    raise UsageError(f"{where}: no field text, nor prompt and completion")
