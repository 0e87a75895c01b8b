"""`eckart export` from outside: one JSON object, what it says to people, and errors in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA
from outside import Eckart

FIELDS = {
    "architecture",
    "bytes",
    "checks",
    "commands",
    "dtype",
    "files",
    "format",
    "inputs",
    "notes",
    "out",
    "output",
    "parameters",
    "seconds",
}


@pytest.fixture
def out(process: Eckart, stored: Any) -> str:
    """A compressed folder in the folder where commands run."""
    assert process("compress", stored(LLAMA), "-o", "out", "--keep", "0.8", "--method", "svd").code == 0
    return "out"


def test_dense(process: Eckart, out: str) -> None:
    answer = process("export", out, "-o", "plain", "--format", "dense", "--json")
    assert set(answer.json) == FIELDS
    assert answer.json["parameters"] > 0
    assert "gains no size" in answer.err
    assert process("export", "plain", "-o", "again", "--format", "dense").code == 2


def test_gguf_ready_says_what_to_run_next(process: Eckart, out: str) -> None:
    answer = process("export", out, "-o", "ready", "--format", "gguf-ready", "--json")
    assert "convert_hf_to_gguf.py ready" in answer.err
    assert any("ct2-transformers-converter --model ready" in line for line in answer.json["commands"])


@pytest.mark.parametrize(("kind", "file"), [("onnx", "model.onnx"), ("openvino", "openvino_model.xml")])
def test_graphs_of_any_model_folder(
    kind: str, file: str, process: Eckart, stored: Any, tmp_path: Path
) -> None:
    answer = process("export", stored(BERT), "-o", "graph", "--format", kind, "--json")
    assert set(answer.json) == FIELDS
    assert (tmp_path / "graph" / file).is_file()
    assert file in answer.json["files"]
    assert {"batch", "difference", "length", "relative"} == set(answer.json["checks"][0])
    assert "of the largest output" in answer.err


def test_wrong_requests(process: Eckart, out: str, tmp_path: Path) -> None:
    process("export", out, "-o", "made", "--format", "tflite").fails(2, "tflite", "gguf-ready")
    process("export", out, "-o", out, "--format", "onnx").fails(2, "out exists")
    process("export", "nowhere", "-o", "made", "--format", "onnx").fails(2, "nowhere")
    assert not (tmp_path / "made").exists()
