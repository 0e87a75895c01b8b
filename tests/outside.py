"""What a user sees of a run, and what it left on the disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What a user sees of a run."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output, which holds one JSON object and nothing else."""
        assert self.code == 0, self.err
        assert self.out.endswith("\n")
        assert self.out.count("\n") == 1

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is no JSON")

        answer = json.loads(self.out, parse_constant=refuse)
        assert isinstance(answer, dict)
        return answer

    def fails(self, code: int, *words: str) -> None:
        """One short line on standard error, with these words; nothing on standard output; that code."""
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("eckart: ")
        assert "eckart: unexpected" not in self.err
        assert len(self.err) < 500
        for word in words:
            assert word in self.err
        assert self.code == code, self.err


Eckart = Callable[..., Answer]


def listing(folder: Path) -> dict[str, Any]:
    """Every path below a folder, hidden ones too; files with their sizes and times of change."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns)
        if path.is_file()
        else None
        for path in folder.rglob("*")
    }
