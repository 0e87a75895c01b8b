"""A run on disk: what was asked for, each answer as soon as it is there, and the score at the end.

A run that was killed is gone on with by the same request, and by no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from eckart import folders
from eckart.types import EckartError

REQUEST, SAMPLES, SCORE = "request.json", "samples.jsonl", "score.json"
SAMPLED = 64
"""Values of each weight that a fingerprint looks at."""
LONGEST_WORD = 60
NAMED = 4
"""Of what two requests differ in, as many are told at most."""


class Kept:
    """The answers of one run: `request.json`, a line each in `samples.jsonl`, and `score.json`.

    Nothing is written before the first answer.

    Args:
        folder: `None` keeps nothing on disk.
        request: what was asked for, by name.
        lines: the file of the answers.
        key: the field of an answer that it is known by.

    Raises:
        UsageError: the folder holds something else, or the answers to another request.
        EckartError: what it holds is damaged.
    """

    def __init__(
        self,
        folder: Path | None = None,
        request: dict[str, Any] | None = None,
        lines: str = SAMPLES,
        key: str = "index",
    ) -> None:
        self.folder, self.lines, self.key = folder, lines, key
        self.request = request or {}
        self.rows: dict[Any, dict[str, Any]] = {}
        self.begun = folder is not None and _is_same(folder, self.request)
        if folder is None or not self.begun:
            return
        try:
            self.rows = {row[key]: row for row in read_lines(folder / lines)}
        except (KeyError, TypeError):
            raise EckartError(f"{folder / lines} is damaged; give another folder") from None

    def begin(self) -> None:
        """Make the folder, if that is not done."""
        if self.folder is None or self.begun:
            return
        try:
            make_room(self.folder)
        except OSError as error:
            raise EckartError(f"{self.folder} could not be made ({error.strerror or error})") from error
        folders.replace_file(self.folder / REQUEST, _pretty(self.request))
        self.begun = True

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Keep these too."""
        self.begin()
        self.rows.update({row[self.key]: row for row in rows})
        if self.folder is not None:
            append_lines(self.folder / self.lines, rows)

    def all(self) -> list[dict[str, Any]]:
        """All answers, in the prompts' order."""
        return [self.rows[key] for key in sorted(self.rows)]

    def finish(self, score: dict[str, Any]) -> None:
        """Write the answers in their order, and the score."""
        self.finish_files({SCORE: _pretty(score)})

    def finish_files(self, files: Mapping[str, bytes]) -> None:
        """Write the answers in their order, each once, and these files."""
        if self.folder is None:
            return
        self.begin()
        folders.replace_file(self.folder / self.lines, "".join(map(_line, self.all())).encode())
        for name, content in files.items():
            folders.replace_file(self.folder / name, content)


def refuse_foreign(folder: Path, own: str = REQUEST) -> None:
    """Refuse a folder that could not be made, or holds something that is no run and need not give way.

    Args:
        own: the file that every run has.

    Raises:
        UsageError: it is such a one.
    """
    if not folder.is_dir():
        folders.refuse_existing(folder)
        return
    if (folder / own).is_file():
        return
    if others := _others(folder):
        folders.require_giving_way(
            folder,
            f"{folder} exists already and holds something else ({others[0]}); give another output folder",
        )


def make_room(folder: Path) -> None:
    """Make a folder; what is in it already, and was not refused, gives way.

    Raises:
        OSError: it cannot be made.
    """
    if folder.is_dir() and _others(folder):
        folders.give_way(folder)
    folder.mkdir(parents=True, exist_ok=True)


def _others(folder: Path) -> list[str]:
    """What is in a folder, without own files that were not finished: their names begin with a dot."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def append_lines(path: Path, rows: Iterable[Any]) -> None:
    """A line of JSON for each, written at once."""
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(map(_line, rows)))


def read_lines(path: Path) -> list[Any]:
    """The lines of a file, none where there is none. Half a line, of a run that was killed, is dropped.

    Raises:
        EckartError: a whole line is no JSON.
    """
    if not path.is_file():
        return []
    whole, end, broken = path.read_bytes().rpartition(b"\n")
    if broken:
        folders.replace_file(path, whole + end)
    found = []
    for number, line in enumerate(whole.split(b"\n") if whole else [], 1):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise EckartError(f"{path}, line {number}: damaged; give another folder") from None
    return found


@torch.no_grad()
def fingerprint(model: Any) -> str:
    """A hash of a model's config, and of the names, shapes, dtypes and a few values of its weights."""
    known = {name: value for name, value in model.config.to_dict().items() if name != "_name_or_path"}
    whole = hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode())
    for name, weight in sorted(model.state_dict().items()):
        whole.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        if not weight.is_meta:
            some = weight.reshape(-1)[:: max(1, weight.numel() // SAMPLED)]
            whole.update(some.cpu().to(torch.float64).numpy().tobytes())
    return whole.hexdigest()


def _is_same(folder: Path, asked: dict[str, Any]) -> bool:
    """Whether a folder has the answers that are asked for; not where those to another request give way.

    Raises:
        UsageError: these are there, and stay.
    """
    if not (folder / REQUEST).is_file():
        return False
    try:
        found = dict(json.loads((folder / REQUEST).read_bytes()))
    except (ValueError, TypeError):
        raise EckartError(f"{folder / REQUEST} is damaged; give another folder") from None
    asked = json.loads(_pretty(asked))
    apart = [
        f"{name} ({_word(found.get(name))} there, {_word(asked.get(name))} here)"
        for name in {**found, **asked}
        # Where the weights lie does not matter.
        if name != "model" and found.get(name) != asked.get(name)
    ]
    if apart:
        if len(apart) > NAMED:
            apart[NAMED:] = [f"{len(apart) - NAMED} more"]
        folders.require_giving_way(
            folder,
            f"{folder} holds the answers to another request: {', '.join(apart)}; give another output folder",
        )
    return not apart


def _word(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= LONGEST_WORD else f"{text[:12]}…"


def _line(row: Any) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _pretty(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n").encode()
