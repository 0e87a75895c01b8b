"""Fill the matrix of docs/loaders.md, and print JSON: `python benchmarks/loaders.py [--vllm-env DIR]`.

Two models in float32, a Llama of width 256 with random weights and the pocket model, each as low-rank, as
pivoted and dense. Every row runs in a process of its own, which has some minutes (loader_rows.py). It takes
ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from loader_rows import CHANGES, ROWS, TEXTS
from safetensors.torch import save_file

import eckart
from eckart import structures
from eckart.pocket import MODEL_DIR

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "loaders.md"
BEGIN, END = "<!-- matrix: benchmarks/loaders.py -->\n", "<!-- end of matrix -->\n"
STRUCTURES = [name for name in structures.replacements() if "sharding" in structures.find(name).supports]
KINDS = (*STRUCTURES, "dense")
SECONDS = 420
EXACT = 1e-4
"""Largest difference in float32 that the order of additions explains."""
TIMES = 4
"""By how much more than a dense model's logits those of factors may change where weights are rounded: each of
two products adds its own, on a model that was cut."""
DENSE_ONES = ("k_proj", "gate_proj")
"""Left dense in the Llama, so that every loader meets both kinds in one block."""


def make(root: Path) -> list[tuple[str, str, Path]]:
    """The places: model, kind and folder, with what each model says right after it was made."""
    places = []
    for name in ("llama", "pocket"):
        dense = root / f"{name}-dense"
        model = llama() if name == "llama" else transformers.AutoModelForCausalLM.from_pretrained(MODEL_DIR)
        tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL_DIR)
        tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
        model.float().save_pretrained(dense / "model")
        tokenizer.save_pretrained(dense / "model")
        put(dense, model)
        places.append((name, "dense", dense))
        for structure in STRUCTURES:
            folder = root / f"{name}-{structure}"
            options: dict[str, Any] = {"method": "svd", "keep": 0.7, "structure": structure}
            if name == "llama":
                options["targets"] = ["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]
            result = eckart.compress(dense / "model", folder / "model", **options)
            put(folder, result.model)
            places.append((name, structure, folder))
    return places


def llama() -> Any:
    """A small Llama with random weights, and logits that are far apart."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=1024,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        initializer_range=0.06,
    )
    return transformers.LlamaForCausalLM(config)


@torch.no_grad()
def put(folder: Path, model: Any) -> None:
    """Ask a model, and keep what it says."""
    ids = torch.randint(4, 1024, (2, 24), generator=torch.Generator().manual_seed(0))
    save_file({"ids": ids, "logits": model.eval()(ids).logits.float()}, folder / "asked.safetensors")


def measure(row: str, folders: list[str], env: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Run one row on all places, in a process of its own: what it says of each."""
    command = [sys.executable, str(HERE / "loader_rows.py"), row, *folders]
    found: dict[str, dict[str, Any]] = {folder: {"error": f"not done in {SECONDS} s"} for folder in folders}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        limit = threading.Timer(SECONDS, process.kill)
        limit.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith('{"place"'):
                said = json.loads(line)
                found[said.pop("place")] = said
                print(row, line, end="", file=sys.stderr, flush=True)
        process.wait()
        limit.cancel()
    return found


def judge(row: str, found: dict[str, dict[str, Any]]) -> dict[str, str]:
    """A cell for each kind: a tick with the largest difference over the models, or a cross with why."""
    cells = {}
    for kind in KINDS:
        each = [one[kind] for one in found.values()]
        errors = [one["error"] for one in each if "error" in one]
        if errors:
            cells[kind] = f"✗ {errors[0]}"
            continue
        fine = all(
            one[kind]["difference"]
            <= (TIMES * one["dense"].get("difference", 0) if row in CHANGES and kind != "dense" else EXACT)
            or (row in CHANGES and kind == "dense")
            for one in found.values()
        )
        most = max(one["difference"] for one in each)
        limit = f"{TIMES} times dense" if row in CHANGES else f"{EXACT:g}"
        said = "same text" if row in TEXTS else f"{most:.1e}"
        cells[kind] = f"✓ {said}" if fine else f"✗ {said}, more than {limit}"
    return cells


def main() -> None:
    """Measure, fill the page, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--only", nargs="*", choices=ROWS, default=list(ROWS), help="rows; the page is left alone"
    )
    parser.add_argument("--vllm-env", help="environment with vLLM that tests/integrations/vllm_check.py made")
    options = parser.parse_args()
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    rows = list(options.only)
    if options.vllm_env:
        env["ECKART_VLLM_ENV"] = options.vllm_env
    else:
        rows = [row for row in rows if not row.startswith("vllm")]
    root = Path(tempfile.mkdtemp(prefix="eckart-loaders-"))
    measured: dict[str, dict[str, dict[str, Any]]] = {row: {} for row in rows}
    try:
        places = make(root)
        for row in rows:
            found = measure(row, [str(folder) for _, _, folder in places], env)
            for name, kind, folder in places:
                measured[row].setdefault(name, {})[kind] = found[str(folder)]
    finally:
        shutil.rmtree(root)
    cells = {row: judge(row, found) for row, found in measured.items()}
    print(json.dumps({"versions": versions(), "rows": measured, "cells": cells}, indent=1))
    if options.only == list(ROWS):
        fill(cells)


def versions() -> dict[str, str]:
    """Of what was measured with."""
    named = ("torch", "transformers", "accelerate", "peft", "torchao", "onnxruntime", "openvino")
    return {"python": platform.python_version(), **{name: version(name) for name in named}}


def fill(cells: dict[str, dict[str, str]]) -> None:
    """Write the table between its markers."""
    lines = ["| loader | low-rank | pivoted | dense, for comparison |", "|---|---|---|---|"]
    for row, found in cells.items():
        name = (ROWS[row].__doc__ or "").rstrip(".")
        lines.append("| " + " | ".join([name, *(found[kind].replace("|", "\\|") for kind in KINDS)]) + " |")
    known = ", ".join(f"{name} {number}" for name, number in versions().items())
    lines += ["", f"Measured on two CPU cores ({platform.machine()}) with {known}."]
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
