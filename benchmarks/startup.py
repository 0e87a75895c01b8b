"""How long Eckart takes to answer at all, two checkouts in turns: `python benchmarks/startup.py ../before .`.

Each command is run in a process of its own with the one checkout's `src/` in front, then with the other's.
Prints a row of Markdown for each: the medians of the seconds, and the median of the ratios of the pairs.
Nothing else should run meanwhile.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = {
    "`eckart`": [],
    "`--help`": ["--help"],
    "`compress --help`": ["compress", "--help"],
    "a mistyped option": ["compress", "pocket", "-o", "out", "--kep", "0.8"],
    "a size missing": ["compress", "pocket", "-o", "out"],
    "`plan pocket --keep 0.8`": ["plan", "pocket", "--keep", "0.8"],
}
ROUNDS = 7


def main() -> None:
    """Run each in turns."""
    before, after = (Path(each).resolve() for each in sys.argv[1:3])
    print("| | s before | s after | ratio |")
    print("|---|---|---|---|")
    for name, command in COMMANDS.items():
        seconds(before, command), seconds(after, command)
        pairs = [(seconds(before, command), seconds(after, command)) for _ in range(ROUNDS)]
        first, second = (statistics.median(each) for each in zip(*pairs, strict=True))
        ratio = statistics.median(new / old for old, new in pairs)
        print(f"| {name} | {first:.2f} | {second:.2f} | {ratio:.2f} |", flush=True)


def seconds(checkout: Path, command: list[str]) -> float:
    """That one call takes, whatever it answers."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "eckart", *command],
        env={**os.environ, "PYTHONPATH": str(checkout / "src")},
        capture_output=True,
        check=False,
    )
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
