"""Regenerate the table of figures in README.md: `python benchmarks/readme.py`.

Runs `eckart demo` and writes its rows between the markers. Takes a few minutes on two cores.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- demo table: benchmarks/readme.py -->\n", "<!-- end of demo table -->\n"


def main() -> None:
    """Run the demo and rewrite the table."""
    run = subprocess.run(
        [sys.executable, "-m", "eckart", "demo", "--json"], stdout=subprocess.PIPE, check=True
    )
    rows = json.loads(run.stdout)["rows"]
    lines = [
        "| method | keep | parameters | MB | word problems, exact match | functions, pass@1 "
        "| stories, perplexity |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        skills = row["skills"]
        lines.append(
            f"| `{row['method']}` | {row['keep']:g} | {row['parameters']:,} | {row['bytes'] / 1e6:.2f} | "
            f"{skills['pocket-math']:.3f} | {skills['pocket-code']:.3f} | {skills['pocket-stories']:.3f} |"
        )
    lines.append("")
    lines.append(f"Measured with Python {platform.python_version()} on two CPU cores ({platform.machine()}).")
    before, rest = README.read_text().split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
