"""Small inputs on which Eckart once failed: what each comes to, by one checkout or by several.

    python benchmarks/cases.py .
    python benchmarks/cases.py ../before . --only zero-metric,null-row

Runs the `run.sh` of each folder in `../shared/cases`, beside this clone, with each checkout's `eckart` on the
path, and prints a table. `unexpected` is a traceback, `eckart: unexpected …`, an end by a signal, or over
`--seconds`. What is wrong without a word, only a reader of the last line can tell. SmolLM2 is where
`$SMOLLM2` says.
"""

from __future__ import annotations

import argparse
import os
import re
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
UNEXPECTED = re.compile(r"Traceback|eckart: unexpected|Segmentation fault|core dumped|command not found")
LONGEST = 160


@contextmanager
def workplace() -> Iterator[str]:
    """A folder for what a case leaves, folders too deep for Python to remove among it."""
    made = tempfile.mkdtemp()
    try:
        yield made
    finally:
        subprocess.run(["rm", "-rf", made], check=False)


def outcome(case: Path, checkout: Path, seconds: int) -> str:
    """What a case comes to by a checkout: how it ended, and the last line that it said."""
    with workplace() as made:
        for name, options in (("eckart", " -m eckart"), ("python", "")):
            program = Path(made) / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{options} "$@"\n')
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        environment = {
            **os.environ,
            "PATH": f"{made}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(checkout / "src"),
            "DATA": str(SHARED / "data"),
            "TMPDIR": made,
            "HF_HUB_OFFLINE": "1",
            "TERM": "dumb",
        }
        try:
            done = subprocess.run(
                ["bash", "run.sh"],
                cwd=case,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"unexpected: more than {seconds} s"
    lines = [
        line for line in done.stdout.splitlines() if line.strip() and not line.startswith(("warning", "note"))
    ]
    last = lines[-1] if lines else f"ended with {done.returncode}"
    found = UNEXPECTED.search(done.stdout)
    shown = last if len(last) <= LONGEST else f"{last[:LONGEST]}…"
    return ("unexpected: " if found or done.returncode < 0 else "") + shown.replace("|", "\\|").replace(
        made, "…"
    )


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkouts", type=Path, nargs="+")
    parser.add_argument("--only", default="")
    parser.add_argument("--seconds", type=int, default=120)
    options = parser.parse_args()
    wanted = set(filter(None, options.only.split(",")))
    print("| case |", " | ".join(str(each) for each in options.checkouts), "|")
    print("|---" * (1 + len(options.checkouts)), end="|\n")
    for script in sorted((SHARED / "cases").glob("*/run.sh")):
        if wanted and script.parent.name not in wanted:
            continue
        found = [outcome(script.parent, each.resolve(), options.seconds) for each in options.checkouts]
        print(f"| `{script.parent.name}` |", " | ".join(found), "|", flush=True)


if __name__ == "__main__":
    main()
