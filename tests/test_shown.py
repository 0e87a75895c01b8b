"""Results say what they are: in a line at a prompt, as a table in a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from architectures import LLAMA

import eckart
from eckart.types import Comparison, ComparisonRow, Memory, Pace, Race


def whole(result: Any, *words: str) -> None:
    """One line with these words, and a table with a cell for each title in each row."""
    line, page = repr(result), result._repr_html_()
    assert "\n" not in line
    assert len(line) < 300
    for word in words:
        assert word in line
    head, *rows = page.split("<tr>")[1:]
    assert rows
    assert {row.count("<td>") for row in rows} == {head.count("<th>")}


def test_a_line_and_a_table_of_each(stored: Any, data: str, tmp_path: Path) -> None:
    model, out = str(stored(LLAMA)), str(tmp_path / "small")
    whole(eckart.plan(model, keep=0.8), "LlamaForCausalLM", "parameters")
    made = eckart.compress(model, out, keep=0.8, method="svd-llm", data=data)
    whole(made, "small: svd-llm", "%", "on held-out data")
    assert made._repr_html_().count("<tr>") == 1 + len(made.manifest.targets)
    whole(eckart.evaluate(out, "perplexity", data=data), "perplexity: perplexity")
    whole(eckart.verify(out), "4 checks, all ok")
    weights = Path(out) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert "FAILED" in repr(eckart.verify(out))


def test_rows_of_comparisons_and_races() -> None:
    rows = [
        ComparisonRow(method="dense", keep=1, of="model", task="perplexity", metric="perplexity", value=2.0),
        ComparisonRow(method="<b>", keep=0.5, of="model", task="perplexity", error="no memory"),
    ]
    made = Comparison("out", rows, [], lower_is_better=True)
    whole(made, "out: 2 models by perplexity, lower is better")
    assert "<b>" not in made._repr_html_()
    memory = Memory(weights_bytes=1, peak_bytes=2)
    pace = Pace(of="model", phase="prefill", batch=1, tokens=4, seconds=1.0, tokens_per_second=4.0)
    race = Race(
        model="small", other=None, device="cpu", dtype="float32", threads=1, fused=False, compiled=False,
        rounds=3, rows=[pace], memory=memory,
    )  # fmt: skip
    whole(race, "small: cpu, float32, medians of 3 rounds")


def test_what_only_looks_says_so_too(stored: Any, tmp_path: Path) -> None:
    model, out = str(stored(LLAMA)), tmp_path / "small"
    eckart.compress(model, out, keep=0.8, method="svd")
    analysis = eckart.analyze(model)
    whole(analysis, "LlamaForCausalLM, 14 weights")
    whole(analysis.matrices[0], "q_proj", "energy: 90% of it in")
    whole(eckart.bases(model, bases=2, targets=["q_proj"]), "4 bases of 2 weights")
    whole(eckart.plan_lora(model, ranks=[2, 4]), "adapters on 14 of its weights")
    whole(eckart.export(out, tmp_path / "dense", format="dense"), "dense: dense, LlamaForCausalLM in float32")
    whole(eckart.describe(out, tmp_path / "page"), "report.html of one compression")
    found = eckart.sweep(model, ratios=[0.5], layers=["top:1"], prompts=["w1 w2"], continuation=2)
    whole(found, "1 models beside the dense one")
