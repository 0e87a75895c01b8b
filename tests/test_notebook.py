"""In a notebook a call shows how far it is, and its result is a table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
from architectures import LLAMA

WIDGET, TABLE = "application/vnd.jupyter.widget-view+json", "text/html"
CALL = "eckart.compress({model!r}, {out!r}, keep=0.8, method='svd-llm', data={data!r}, cache=False)"


def run(*cells: str) -> list[Any]:
    """The outputs of the last cell, in a kernel of this Python."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return list(notebook.cells[-1].outputs)


def test_a_call_shows_how_far_it_is_and_its_result_is_a_table(stored: Any, data: str, tmp_path: Path) -> None:
    call = CALL.format(model=str(stored(LLAMA)), out=str(tmp_path / "out"), data=data)
    outputs = run("import eckart", call)
    bars = [output for output in outputs if WIDGET in output.get("data", {})]
    (result,) = [output for output in outputs if output.output_type == "execute_result"]
    assert bars
    assert any("calibrating" in str(output.data) for output in bars)
    assert result.data[TABLE].startswith("<table>")
    assert result.data["text/plain"].startswith("<Result: ")
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    assert "torchao" not in said


def test_bars_are_off_where_transformers_are(stored: Any, data: str, tmp_path: Path) -> None:
    call = CALL.format(model=str(stored(LLAMA)), out=str(tmp_path / "out"), data=data)
    off = "import eckart, transformers; transformers.utils.logging.disable_progress_bar()"
    assert not [output for output in run(off, call) if WIDGET in output.get("data", {})]


def test_a_script_is_told_what_its_log_asks_for(stored: Any, data: str, tmp_path: Path) -> None:
    call = CALL.format(model=str(stored(LLAMA)), out=str(tmp_path / "out"), data=data)
    for level, expected in (("WARNING", False), ("INFO", True)):
        script = f"import logging; logging.basicConfig(level='{level}'); import eckart; {call}"
        script = script.replace("/out'", f"/{level}'")
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=300
        )
        assert ("INFO:eckart:" in done.stderr) == expected
        assert not done.stdout
