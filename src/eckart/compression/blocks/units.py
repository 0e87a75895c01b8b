"""Finished pieces of work on disk: each is there whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from eckart import calibrate, checkpoint
from eckart.types import Moment

SUFFIX = ".safetensors"


class Units:
    """Named tensors and words, by what they are and whose."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, kind: str, name: str) -> bool:
        return self._path(kind, name).is_file()

    def put(self, kind: str, name: str, tensors: Mapping[str, Tensor], words: dict[str, Any]) -> None:
        checkpoint.write_tensors(self._path(kind, name), tensors, words)

    def get(self, kind: str, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return checkpoint.read_tensors(self._path(kind, name))

    def drop(self, kind: str, name: str) -> None:
        self._path(kind, name).unlink(missing_ok=True)

    def names(self, kind: str) -> list[str]:
        return sorted(
            path.name[len(kind) + 1 : -len(SUFFIX)] for path in self.folder.glob(f"{kind}-*{SUFFIX}")
        )

    def _path(self, kind: str, name: str) -> Path:
        return self.folder / f"{kind}-{name}{SUFFIX}"


def begun(work: Path) -> bool:
    """Whether a folder holds a finished piece."""
    return any(not path.name.startswith(".") for path in work.glob(f"*{SUFFIX}"))


def tidy(work: Path) -> None:
    """Remove what a run that was killed had not finished: its names begin with a dot."""
    for path in work.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


class KeptMoments(Mapping[str, Moment]):
    """Moments by name: those that are worked on in memory, the others as units.

    Attributes:
        live: those in memory, of one block.
        lasting: those that later blocks ask for too.
    """

    def __init__(self, units: Units, kind: str, device: Any) -> None:
        self.units, self.kind, self.device = units, kind, device
        self.live: dict[str, Moment] = {}
        self.lasting: dict[str, Moment] = {}

    def keep(self, moments: Mapping[str, Moment]) -> None:
        """Put these on disk."""
        for name, moment in moments.items():
            self.units.put(self.kind, name, *calibrate.pack(calibrate.Observed({}, {name: moment}, 0)))

    def __getitem__(self, name: str) -> Moment:
        if name in self.lasting:
            return self.lasting[name]
        if name not in self.live:
            if not self.units.has(self.kind, name):
                raise KeyError(name)
            # One at a time: they are large.
            packed = self.units.get(self.kind, name)
            self.live = {name: calibrate.unpack(*packed, self.device).moments[name]}
        return self.live[name]

    def __contains__(self, name: object) -> bool:
        return name in self.live or name in self.lasting or self.units.has(self.kind, str(name))

    def __iter__(self) -> Iterator[str]:
        return iter({*self.live, *self.lasting, *self.units.names(self.kind)})

    def __len__(self) -> int:
        return len(list(iter(self)))
