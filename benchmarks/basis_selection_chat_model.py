"""Basis selection on a chat model: `SMOLLM2=FOLDER python benchmarks/basis_selection_chat_model.py`.

SmolLM2-135M-Instruct, its targets cut to 1/2, 1/4, … of their parameters for GSM8K and for MBPP, by each
method with the same tokens of training on that application's training set; then the loss on the answers of
its test set. A cell is made and measured by the command line; what is done is kept in OUT, so that the
command goes on where it stopped. It is for a GPU: `--device cuda`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TASKS = Path(__file__).parents[2] / "shared" / "data" / "tasks"
METHODS = ("svd", "fwsvd", "auto", "basis-selection", "basis-training")
FIELDS = {"gsm8k": "question,answer", "mbpp": "text,code"}
MBPP_TEST = range(11, 511)
"""Its `task_id`s, by the data set's own authors; the rest is trained on, but for the ten of the prompt."""


def main() -> None:
    """Make what is missing, and print a table for each application."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("basis-selection-chat-model"))
    parser.add_argument("--data", type=Path, default=TASKS, help="folder of gsm8k_*.jsonl and mbpp.jsonl")
    parser.add_argument("--tokens", nargs=2, default=["2M", "600k"], help="of GSM8K, and of MBPP")
    parser.add_argument("--ratios", type=int, nargs="+", default=[2, 4, 7])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    prepare(args.data, args.out)
    cells = [(task, ratio, method) for task in FIELDS for ratio in args.ratios for method in args.methods]
    # The deepest first: there the methods differ, and a run that is cut short has them.
    cells.sort(key=lambda cell: -cell[1])
    with ThreadPoolExecutor(args.workers) as pool:
        lost = dict(zip(cells, pool.map(lambda cell: measure(*cell, args), cells), strict=True))
    for task in FIELDS:
        print(f"\n| {task}, nats a token of the answers |" + "".join(f" {ratio} |" for ratio in args.ratios))
        print("|---" * (len(args.ratios) + 1) + "|")
        for method in args.methods:
            print(f"| {method} |" + "".join(f" {lost[task, ratio, method]:.4f} |" for ratio in args.ratios))


def prepare(data: Path, out: Path) -> None:
    """Training and test rows of each application, as files."""
    for part in ("train", "test"):
        shutil.copy(data / f"gsm8k_{part}.jsonl", out / f"gsm8k-{part}.jsonl")
    rows = [json.loads(line) for line in (data / "mbpp.jsonl").open(encoding="utf-8")]
    parts = {
        "test": [row for row in rows if row["task_id"] in MBPP_TEST],
        "train": [row for row in rows if row["task_id"] >= MBPP_TEST.stop],
    }
    for part, some in parts.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        (out / f"mbpp-{part}.jsonl").write_text(text, encoding="utf-8")


def measure(task: str, ratio: int, method: str, args: argparse.Namespace) -> float:
    """The loss of one model; what was measured before is read."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{task} {method} {ratio}")
    kept, folder = args.out / f"{name}.json", args.out / name
    if kept.exists():
        return float(json.loads(kept.read_text())["loss"])
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(f"{folder}.training", ignore_errors=True)
    started = time.perf_counter()
    tokens = args.tokens[list(FIELDS).index(task)]
    run = ("--device", args.device, "--fields", FIELDS[task])
    made = eckart(
        "compress", os.environ["SMOLLM2"], "-o", str(folder), "--keep", str(1 / ratio), "--of", "targets",
        "--data", str(args.out / f"{task}-train.jsonl"), "--method", method, "--samples", "256",
        "--tokens", tokens, "--train", "all", "--precision", "bf16", *run,
    )  # fmt: skip
    data = ("--task", "perplexity", "--data", str(args.out / f"{task}-test.jsonl"))
    loss = float(eckart("evaluate", str(folder), *data, "--limit", "500", *run)["loss"])
    row = {
        "task": task,
        "ratio": ratio,
        "method": method,
        "loss": loss,
        "parameters": made["parameters"]["after"],
        "seconds": round(time.perf_counter() - started),
    }
    kept.write_text(json.dumps(row))
    shutil.rmtree(folder)
    print(json.dumps(row), flush=True)
    return loss


def eckart(*words: str) -> dict[str, Any]:
    """One command, and the object that it prints."""
    run = subprocess.run(
        [sys.executable, "-m", "eckart", *words, "--json"], capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise SystemExit(f"eckart {' '.join(words)}: {run.stderr}")
    found: dict[str, Any] = json.loads(run.stdout)
    return found


if __name__ == "__main__":
    main()
