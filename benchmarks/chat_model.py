"""What cuts of a real chat model cost: `SMOLLM2=FOLDER python benchmarks/chat_model.py [KEEP …]`.

SmolLM2-135M-Instruct, 64 windows of 512 tokens of WikiText-2's valid split, `--of targets`, each cut in a
process of its own without cached moments: loss over the dense model's on the first 120,000 characters of the
test split and on as many of C4, which was not calibrated on, both in windows of 512; seconds and memory at
the peak. An hour for a size on two cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TEXT = Path(__file__).parents[2] / "shared" / "data" / "text"
CHARACTERS = 120_000
METHODS: dict[str, list[str]] = {
    "svd-llm": ["--method", "svd-llm"],
    "auto, --recovery none": ["--recovery", "none"],
    "auto, --effort fast": ["--effort", "fast"],
    "auto": [],
    "narrow-mlp": ["--method", "narrow-mlp"],
    "narrow-mlp, trained": ["--method", "narrow-mlp", "--recovery", "imitation"],
}


def main() -> None:
    """Print a table."""
    dense = os.environ["SMOLLM2"]
    keeps = [float(each) for each in sys.argv[1:]] or [0.8, 0.6]
    with tempfile.TemporaryDirectory() as folder:
        tests = _tests(Path(folder))
        before = {name: _loss(dense, path) for name, path in tests.items()}
        print(f"dense: {', '.join(f'{name} {loss:.4f}' for name, loss in before.items())}")
        print(
            "| keep | method | " + " | ".join(f"{name}, over dense" for name in tests) + " | seconds | GB |"
        )
        print("|---|---|" + "---|" * (len(tests) + 2))
        for keep in keeps:
            for method, options in METHODS.items():
                out = str(Path(folder) / "cut")
                made = _eckart("compress", dense, "-o", out, "--keep", str(keep), *CUT, *options)
                lost = [f"{_loss(out, path) - before[name]:.4f}" for name, path in tests.items()]
                gigabytes = made["peak_memory_bytes"] / 1e9
                cells = [f"{keep:g}", method, *lost, f"{made['seconds']:.0f}", f"{gigabytes:.1f}"]
                print(f"| {' | '.join(cells)} |", flush=True)


CUT = [
    *("--data", str(TEXT / "wikitext2_valid.txt"), "--samples", "64", "--max-length", "512"),
    *("--of", "targets", "--no-cache", "--overwrite"),
]


def _tests(folder: Path) -> dict[str, Path]:
    """Texts that nothing is calibrated on, by name."""
    rows = (json.loads(line)["text"] for line in (TEXT / "c4_sample.jsonl").open(encoding="utf-8"))
    whole = {
        "WikiText": (TEXT / "wikitext2_test.txt").read_text(encoding="utf-8"),
        "C4": "\n\n".join(rows),
    }
    paths = {name: folder / f"{name}.txt" for name in whole}
    for name, path in paths.items():
        path.write_text(whole[name][:CHARACTERS], encoding="utf-8")
    return paths


def _loss(model: str, path: Path) -> float:
    """Nats a token."""
    asked = ("--task", "perplexity", "--data", str(path), "--max-length", "512")
    return float(_eckart("evaluate", model, *asked)["loss"])


def _eckart(*line: str) -> dict[str, Any]:
    run = subprocess.run(
        [sys.executable, "-m", "eckart", *line, "--json"], stdout=subprocess.PIPE, check=True
    )
    found: dict[str, Any] = json.loads(run.stdout)
    return found


if __name__ == "__main__":
    main()
