"""Runs the blocks of the documentation, page by page, in the folder that it is started in.

A `bash` block is commands of Eckart alone, so that one process can run them all: what takes long about a
command is to import what it needs. The `python` blocks of a page are one program, in the page's order.
"""

from __future__ import annotations

import re
import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from eckart.cli import app

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[tuple[str, str]]:
    """The language and the text of each block that can be run."""
    return BLOCK.findall(page)


def commands(block: str) -> list[list[str]]:
    """The commands of a `bash` block, a line each."""
    lines = block.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def run(language: str, block: str, names: dict[str, Any]) -> None:
    """Run one block, with the names that the page's program has so far; raises whatever is wrong with it."""
    if language == "python":
        exec(compile(block, "block", "exec"), names)
        return
    for program, *arguments in commands(block):
        assert program == "eckart", f"{program}: a bash block has commands of eckart alone"
        answer = CliRunner().invoke(app, arguments)
        assert answer.exit_code == 0, f"eckart {shlex.join(arguments)}\n{answer.output}"


def main() -> None:
    """Run all blocks of the pages that are named; exit code 1 if any failed."""
    failed = False
    for name in sys.argv[1:]:
        names: dict[str, Any] = {"__name__": "__main__"}
        for number, (language, block) in enumerate(blocks(Path(name).read_text(encoding="utf-8")), 1):
            started = time.perf_counter()
            where = f"{Path(name).name}, block {number} ({language})"
            try:
                run(language, block, names)
            except BaseException:
                failed = True
                print(f"{where} failed:\n{block}\n{traceback.format_exc()}", flush=True)  # noqa: T201
            else:
                print(f"{where}: {time.perf_counter() - started:.1f} s", flush=True)  # noqa: T201
    sys.exit(failed)


if __name__ == "__main__":
    main()
