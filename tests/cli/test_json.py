"""`--json`: one object on standard output with the fields that are promised, and nothing else there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, T5
from fitting import SMALLER
from outside import Eckart

from eckart import recipes

COUNT = {"before", "after", "keep", "targets_before", "targets_after"}


def check_sizes(answer: dict[str, Any], keep: float) -> None:
    """The fields that `plan` and `compress` share, and what must hold between them."""
    assert {"out", "method", "parameters", "bytes", "seconds", "peak_memory_bytes"} <= set(answer)
    count, size = answer["parameters"], answer["bytes"]
    assert set(count) == COUNT
    assert set(size) == {"before", "after"}
    assert all(isinstance(count[name], int) for name in COUNT - {"keep"})
    assert count["keep"] == count["after"] / count["before"] <= keep
    assert count["before"] - count["after"] == count["targets_before"] - count["targets_after"]
    assert 0 < size["after"] < size["before"]
    assert answer["seconds"] > 0
    assert answer["peak_memory_bytes"] > 10**7


def test_plan(process: Eckart, stored: Any) -> None:
    answer = process("plan", stored(LLAMA), "--keep", "0.8", "--json")
    check_sizes(answer.json, 0.8)
    assert answer.json["out"] is None
    assert answer.json["method"] == "auto"
    assert (
        sum(row["parameters"]["after"] for row in answer.json["targets"])
        == (answer.json["parameters"]["targets_after"])
    )
    for words in ("q_proj", "48x48", "parameters"):
        assert words in answer.err


def test_plan_and_compress_say_the_same(process: Eckart, stored: Any, data: str) -> None:
    for structure in SMALLER:
        options = [stored(LLAMA), "--keep", "0.7", "--structure", structure, "--json"]
        planned = process("plan", *options).json
        made = process("compress", *options, "-o", structure).json
        for field in ("method", "parameters", "bytes"):
            assert planned[field] == made[field]


def test_compress_in_a_process_of_its_own(stored: Any, tmp_path: Path, data: str) -> None:
    """As a user runs it, with all that libraries may print."""
    command = [sys.executable, "-m", "eckart", "compress", str(stored(LLAMA)), "-o", "out", "--keep", "0.8"]
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    run = subprocess.run(
        [*command, "--data", data, "--json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.count("\n") == 1
    answer = json.loads(run.stdout)
    check_sizes(answer, 0.8)
    assert (answer["out"], answer["method"]) == ("out", "auto")
    measured, *notes, made = run.stderr.splitlines()
    # Layers as small as these are no faster, and the machine that finds that out says so.
    assert all(note.startswith(("note: ", "warning: ")) for note in notes)
    assert answer["warnings"] == [n.removeprefix("warning: ") for n in notes if n.startswith("warning: ")]
    assert made.startswith("out: auto, pivoted, auto; ")
    assert measured.startswith("on held-out data: loss ")
    held_out = answer["held_out"]
    assert held_out["tokens"] > 0
    assert held_out["divergence"] <= next(
        c["divergence"] for c in held_out["candidates"] if c["name"] == "uniform"
    )
    saved = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.safetensors"))
    assert answer["bytes"]["after"] == pytest.approx(saved, rel=0.1)


def test_evaluate_perplexity(process: Eckart, stored: Any, data: str) -> None:
    answer = process("evaluate", stored(LLAMA), "--task", "perplexity", "--data", data, "--json")
    assert {"task", "metric", "value", "loss", "tokens"} <= set(answer.json)
    assert (answer.json["task"], answer.json["metric"]) == ("perplexity", "perplexity")
    assert "perplexity" in answer.err


def test_evaluate_stsb(process: Eckart, stored: Any, tmp_path: Path) -> None:
    rows = [f"main\tnews\t2016\t1\t{score}\tw{score} w2\tw3 w{score + 4}\n" for score in range(5)]
    (tmp_path / "pairs.csv").write_text("".join(rows))
    answer = process("evaluate", stored(BERT), "--task", "stsb", "--data", "pairs.csv", "--json").json
    assert {"task": "stsb", "metric": "spearman", "pairs": 5}.items() <= answer.items()
    assert -1 <= answer["value"] <= 1


def test_a_model_that_ranks_no_pair_scores_0(process: Eckart, stored: Any, tmp_path: Path) -> None:
    """Spearman's correlation does not exist there, and NaN is no JSON."""
    same = [f"main\tnews\t2016\t1\t{score}\tw1 w2\tw3 w4\n" for score in range(5)]
    (tmp_path / "pairs.csv").write_text("".join(same))
    answer = process("evaluate", stored(BERT), "--task", "stsb", "--data", "pairs.csv", "--json").json
    assert answer["value"] == 0


def test_verify(process: Eckart, stored: Any) -> None:
    assert process("compress", stored(T5), "-o", "out", "--keep", "0.8").code == 0
    answer = process("verify", "out", "--json")
    assert answer.json["out"] == "out"
    assert answer.json["ok"] is True
    assert len(answer.json["checks"]) == 4
    for check in answer.json["checks"]:
        assert set(check) == {"check", "ok", "detail"}
        assert check["ok"] is True
    assert answer.err.count("ok ") == 4


def test_methods(process: Eckart) -> None:
    answer = process("methods", "--json")
    rows = answer.json["methods"]
    assert [row["name"] for row in rows] == list(recipes.METHODS)
    for row in rows:
        assert {"metric", "structure", "allocation", "recovery", "paper", "departure"} <= set(row)
        assert row["paper"] in answer.err


def test_without_json_results_are_on_standard_output(process: Eckart, stored: Any, data: str) -> None:
    for arguments in (
        ["methods"],
        ["plan", stored(LLAMA), "--keep", "0.8"],
        ["compress", stored(LLAMA), "--keep", "0.8", "-o", "out"],
        ["evaluate", stored(LLAMA), "--task", "perplexity", "--data", data],
    ):
        answer = process(*arguments)
        assert answer.code == 0
        assert answer.out
        assert all(line.startswith(("note: ", "warning: ")) for line in answer.err.splitlines())


def test_a_wrong_way_of_calling_is_exit_code_2(process: Eckart) -> None:
    for arguments in (
        ["compres"],
        ["compress"],
        ["plan", "x", "--keep", "much"],
        ["plan", "x", "--kep", "1"],
    ):
        answer = process(*arguments)
        answer.fails(2)


def test_long_work_is_logged_where_there_is_no_terminal(
    eckart: Eckart, stored: Any, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eckart.cli.saying.LOG_SECONDS", 0)
    answer = eckart("compress", stored(LLAMA), "-o", "out", "--keep", "0.8", "--data", data, "--json")
    assert answer.json["out"] == "out"
    assert re.search(r"factorizing: 1 of 2, about \d+ s left", answer.err)
