"""What the rows of a comparison have in common, and the folder that holds both."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from eckart import checkpoint, folders
from eckart.data import is_built_in
from eckart.evaluation.keeping import make_room, refuse_foreign
from eckart.model import loading
from eckart.recipes.names import DENSE
from eckart.recovery.settings import Training
from eckart.report.files import table
from eckart.types import ComparisonRow, EckartError, Recipe

PROTOCOL = "compare.json"
RESULTS = "results.csv"
COLUMNS = tuple(ComparisonRow.model_fields)
AXES = ("metric", "structure", "allocation", "recovery", "quantize")


class Protocol(BaseModel):
    """What must be equal for two rows to be compared. Contents are hashed: a file may be moved."""

    model_config = ConfigDict(extra="forbid")

    model: str
    of: Literal["model", "targets"]
    targets: list[str] | None
    layers: str | None
    data: str | None
    samples: int | None
    max_length: int
    task: str
    test: str | None
    limit: int | None
    training: Training | None = None
    drop_unused: bool = False
    device: str
    dtype: str
    eckart: str
    torch: str
    transformers: str


class Kept(BaseModel):
    """`compare.json`: the protocol, what it was applied to, and what a reader should know.

    Attributes:
        format_version: of this file.
        source, data, test: names, for people; the protocol holds the hashes.
        asked: model, data and test as they were given, so that `eckart compare --recipe` does it again.
        protocol: what all rows have in common.
        methods: the axes of each method.
        keeps: all sizes that were asked for.
        notes: what a reader should know.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    source: str
    data: str | None
    test: str | None
    asked: dict[str, str | None] | None = None
    protocol: Protocol
    methods: dict[str, dict[str, str]]
    keeps: list[float]
    notes: list[str] = Field(default_factory=list)


class Request(BaseModel):
    """What the process of one method is asked for.

    Attributes:
        method: the label of its rows.
        model: a folder.
        recipe: at the largest of the sizes; `None` measures the dense model.
        keeps: descending.
        protocol: what all rows have in common. Its training is of every model, after the cut or on the way.
        data: what methods calibrate on.
        test: what the task reads.
        held_out: instead of `test`, every eighth text of `data`, which nothing is calibrated on.
        debug: show the tracebacks of rows that fail on standard error.
    """

    model: str
    method: str
    recipe: Recipe | None
    keeps: list[float]
    protocol: Protocol
    data: str | None
    test: str | None
    held_out: bool
    debug: bool = False


class ComparisonFolder:
    """A folder that holds a comparison, or will; nothing is written before the first row.

    Attributes:
        out: where it is.
        kept: what `compare.json` says.
        rows: what `results.csv` says, the dense model first.

    Raises:
        UsageError: something else is there, or a comparison under another protocol.
        EckartError: what is there is damaged.
    """

    def __init__(self, out: Path, asked: Kept) -> None:
        self.out, self.kept, self.rows = out, asked, []
        found = _read(out)
        self.begun = found is not None and _is_same(out, found, asked)
        if found is None or not self.begun:
            return
        self.kept = found.model_copy(
            update={
                "asked": asked.asked,
                "methods": found.methods | asked.methods,
                "keeps": list(dict.fromkeys([*found.keeps, *asked.keeps])),
                "notes": list(dict.fromkeys([*found.notes, *asked.notes])),
            }
        )
        self.rows = read_rows(out / RESULTS)
        if strange := {row.method for row in self.rows} - {DENSE, *self.kept.methods}:
            raise EckartError(f"{out} is damaged: {RESULTS} has {strange.pop()}, and {PROTOCOL} has not")

    def missing(self, method: str, keeps: Sequence[float]) -> list[float]:
        """The sizes that have no row yet, or one that failed, descending."""
        done = {(row.method, row.keep) for row in self.rows if row.error is None}
        return sorted((keep for keep in keeps if (method, keep) not in done), reverse=True)

    def note(self, text: str) -> None:
        """Something that a reader of the rows should know, once."""
        if text not in self.kept.notes:
            self.kept.notes.append(text)

    def add(self, row: ComparisonRow) -> None:
        """Put a row in its place, instead of one that failed, and write the folder."""
        order = [DENSE, *self.kept.methods]
        others = [known for known in self.rows if (known.method, known.keep) != (row.method, row.keep)]
        self.rows = sorted(
            [*others, row],
            key=lambda each: (order.index(each.method), -each.keep),
        )
        self.write()

    def write(self) -> None:
        """Write both files, each whole."""
        try:
            if not self.begun:
                make_room(self.out)
        except OSError as error:
            raise EckartError(f"{self.out} could not be made ({error.strerror or error})") from error
        self.begun = True
        rows = table(COLUMNS, (row.model_dump() for row in self.rows))
        folders.replace_file(self.out / PROTOCOL, (self.kept.model_dump_json(indent=1) + "\n").encode())
        folders.replace_file(self.out / RESULTS, rows)


def model_digest(folder: Path) -> str:
    """A hash of a model's config, weights and tokenizer; not of where it lies."""
    names = ["config.json", *loading.TOKENIZER_FILES]
    files = [folder / name for name in names if (folder / name).is_file()]
    files += checkpoint.open_checkpoint(folder).files
    digests = [f"{path.name} {checkpoint.sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def data_digest(source: str | None) -> str | None:
    """A hash of a file's content, or the name of data that Eckart makes itself or the hub has."""
    if source is None or is_built_in(source) or not Path(source).is_file():
        return source
    return checkpoint.sha256(Path(source))


def axes(recipe: Recipe) -> dict[str, str]:
    """The recipe's choice on each axis, where it has one."""
    return {axis: value for axis in AXES if (value := getattr(recipe, axis)) is not None}


def _read(out: Path) -> Kept | None:
    """What `compare.json` holds, `None` where there is nothing yet."""
    path = out / PROTOCOL
    if path.is_file():
        try:
            return Kept.model_validate_json(path.read_bytes())
        except ValidationError as error:
            raise EckartError(f"{path} is damaged: {error.errors()[0]['msg']}; give another folder") from None
    refuse_foreign(out, PROTOCOL)
    return None


def read_rows(path: Path) -> list[ComparisonRow]:
    """The rows of a `results.csv`; none where it is not there.

    Raises:
        EckartError: it is damaged.
    """
    if not path.is_file():
        return []
    try:
        return [
            ComparisonRow.model_validate({name: value or None for name, value in row.items()})
            for row in csv.DictReader(StringIO(path.read_text(encoding="utf-8")), strict=True)
        ]
    except (ValidationError, csv.Error, UnicodeDecodeError) as error:
        raise EckartError(f"{path} is damaged: {str(error).splitlines()[0]}; give another folder") from None


def _is_same(out: Path, found: Kept, asked: Kept) -> bool:
    """Whether rows of the one can stand beside rows of the other; not where those that are there give way.

    Raises:
        UsageError: they cannot, and these stay.
    """
    apart = []
    for name in Protocol.model_fields:
        there, here = getattr(found.protocol, name), getattr(asked.protocol, name)
        if there == here:
            continue
        if name in ("model", "data", "test"):
            there, here = (getattr(kept, "source" if name == "model" else name) for kept in (found, asked))
            there, here = there or "none", here or "none"
            if there == here:
                apart.append(f"{name} ({here} has changed)")
                continue
        apart.append(f"{name} ({_word(there)} there, {_word(here)} here)")
    for name, there in found.methods.items():
        if (here := asked.methods.get(name, there)) != there:
            apart.append(f"method {name} ({_word(there)} there, {_word(here)} here)")
    if apart:
        folders.require_giving_way(
            out,
            f"{out} holds a comparison under another protocol: {', '.join(apart)}; give another output "
            "folder",
        )
    return not apart


def _word(value: object) -> str:
    if isinstance(value, dict):
        return ":".join(map(str, value.values()))
    return "none" if value is None else ",".join(value) if isinstance(value, list) else str(value)
