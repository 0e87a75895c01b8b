"""How much faster two processes are than one: `python benchmarks/processes.py [WIDTH]`.

A Llama of random weights, 1024 wide by default, 4 blocks, cut by `svd-llm` block by block, one thread each,
in turns.
Prints a line of JSON a run: processes, and seconds of each phase; then the ratios. Two CPU cores are needed.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eckart.pocket import MODEL_DIR

ROUNDS = 3


def main() -> None:
    """Make the model, and time both in turns."""
    width = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        torch.manual_seed(0)
        config = LlamaConfig(
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=4,
            num_attention_heads=8,
            vocab_size=1024,
            tie_word_embeddings=True,
        )
        LlamaForCausalLM(config).save_pretrained(folder)
        for path in MODEL_DIR.glob("tokenizer*"):
            shutil.copy(path, folder)
        took: dict[int, list[dict[str, float]]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for processes, runs in took.items():
                runs.append(_run(folder, Path(scratch) / "out", processes))
    middle = {
        phase: {count: statistics.median(run[phase] for run in runs) for count, runs in took.items()}
        for phase in ("solve", "passes", "seconds")
    }
    print(json.dumps({phase: round(both[1] / both[2], 2) for phase, both in middle.items()}))


def _run(folder: Path, out: Path, processes: int) -> dict[str, float]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
    arguments = ["compress", str(folder), "-o", str(out), "--keep", "0.7", "--method", "svd-llm"]
    data = ["--data", "pocket", "--samples", "64", "--blocks", "--json"]
    done = subprocess.run(
        [*launcher, "-m", "eckart", *arguments, *data],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    shutil.rmtree(out)
    answer = json.loads(done.stdout)
    run = {"processes": processes, **answer["phases"], "seconds": answer["seconds"]}
    print(json.dumps(run), flush=True)
    return run


if __name__ == "__main__":
    main()
