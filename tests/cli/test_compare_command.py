"""`eckart compare` from outside: its table, its JSON, its files, its exit code; and stopping it half way."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart, listing
from stub_worker import value

FIELDS = [
    "method",
    "keep",
    "of",
    "quantize",
    "parameters",
    "targets_parameters",
    "bytes",
    "task",
    "metric",
    "value",
    "loss",
    "divergence",
    "same_top",
    "seconds",
    "peak_memory_bytes",
    "error",
]
FILES = ["compare.json", "plot.png", "plot.svg", "report.html", "results.csv"]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_whole_comparison(process: Eckart, stored: Any, data: str, tmp_path: Path) -> None:
    """With real processes; the second time there is nothing left to do."""
    arguments = ["compare", stored(LLAMA), "--methods", "svd-llm:pivoted", "--keep", "0.9,0.8"]
    arguments += ["--data", data, "-o", "out", "--json"]
    answer = process(*arguments)
    assert set(answer.json) == {"out", "rows", "notes"}
    assert answer.json["out"] == "out"
    rows = answer.json["rows"]
    assert [list(row) for row in rows] == [FIELDS] * 3
    assert [(row["method"], row["keep"]) for row in rows] == [
        ("dense", 1.0),
        ("svd-llm:pivoted", 0.9),
        ("svd-llm:pivoted", 0.8),
    ]
    dense, *cut = rows
    for row in cut:
        assert row["keep"] - 0.01 < row["parameters"] / dense["parameters"] <= row["keep"]
        assert row["seconds"] > 0
        assert row["peak_memory_bytes"] > 10**7
        assert (row["metric"], row["error"]) == ("perplexity", None)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == FILES
    assert [[str(value or "") for value in row.values()] for row in rows] == [
        ["" if value == "0.0" else value for value in row.values()] for row in table(tmp_path / "out")
    ]
    before = listing(tmp_path)
    again = process(*arguments)
    assert again.json == answer.json
    for name in ("compare.json", "results.csv"):
        assert listing(tmp_path)[f"out/{name}"] == before[f"out/{name}"]


def test_the_table_marks_the_best_of_each_size(eckart: Eckart, does: Any, stored: Any, data: str) -> None:
    answer = eckart(
        "compare",
        stored(LLAMA),
        "--methods",
        "svd, svd-llm",
        "--keep",
        "0.9, 0.8",
        "--data",
        data,
        "-o",
        "out",
    )
    assert answer.code == 0
    for row in ("dense at 1: perplexity 2.0000; 1.5 s, 0.10 GB at the peak", "svd-llm at 0.8: perplexity"):
        assert row in answer.err
    assert "out: perplexity, lower is better; dense 2.0000; * best at its size" in answer.out
    for method in ("svd", "svd-llm"):
        (line,) = (line for line in answer.out.splitlines() if line.startswith(f"{method} "))
        for keep in (0.9, 0.8):
            assert f"{value(method, keep):.4f}" in line
        assert line.count("*") == (2 if method == "svd-llm" else 0)
    assert "note: without --test, perplexity is measured on every eighth text" in answer.err


def test_a_method_that_fails_is_exit_code_1_and_the_rest_is_there(
    eckart: Eckart, does: Any, stored: Any, data: str, tmp_path: Path
) -> None:
    does(svd={"0.8": ["error", "keep 0.8 is lower than the model allows"]})
    arguments = ["compare", stored(LLAMA), "--methods", "svd,asvd", "--keep", "0.9,0.8", "--data", data]
    answer = eckart(*arguments, "-o", "out", "--json")
    assert answer.code == 1
    rows = json.loads(answer.out)["rows"]
    assert [row["value"] is None for row in rows] == [False, False, True, False, False]
    words = "note: svd at 0.8 failed: keep 0.8 is lower than the model allows"
    assert words in answer.err.splitlines()
    (line,) = (line for line in answer.err.splitlines() if line.startswith("svd  "))
    assert "failed" in line
    assert (tmp_path / "out" / "plot.svg").is_file()


BAD: dict[str, tuple[list[str], list[str]]] = {
    "keep": (["--keep", "0.9,much"], ["--keep much: not a number"]),
    "keep 0": (["--keep", "0.9,0"], ["keep 0 is not a share"]),
    "no keep": (["--keep", ","], ["--keep is empty"]),
    "empty keep": (["--keep", " "], ["--keep is empty"]),
    "dense again": (["--methods", "svd,dense"], ["the dense model is measured anyway", "dense:int8"]),
    "dense cut": (["--methods", "dense:pivoted:int8"], ["rounded it is dense:int8"]),
    "no methods": (["--methods", ","], ["--methods is empty"]),
    "empty methods": (["--methods", ""], ["--methods is empty"]),
    "method": (["--methods", "svd,kfca"], ["unknown method 'kfca'; did you mean kfac?"]),
    "value": (["--methods", "kfac:waterfil"], ["kfac:waterfil", "did you mean waterfill?"]),
    "task": (["--task", "perplexty"], ["did you mean perplexity?"]),
    "task of encoders": (["--task", "stsb", "--test", "pocket"], ["stsb is for encoders"]),
    "test": (["--test", "no.jsonl"], ["no such data file: no.jsonl"]),
    "empty test": (["--test", ""], ["--test is empty"]),
    "limit": (["--limit", "0"], ["--limit 0"]),
    "out": (["--out", "full"], ["full exists already", "thesis.txt"]),
    "empty out": (["--out", ""], ["--out is empty"]),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_request_is_one_line_and_leaves_nothing(
    eckart: Eckart, stored: Any, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setattr("eckart.comparison.workers.WORKER", ["/no/such/program"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("the only copy")
    options, words = BAD[bad]
    usual = ["--keep", "0.9", "--methods", "svd", "--data", data, "--out", "out"]
    before = listing(tmp_path)
    eckart("compare", stored(LLAMA), *usual, *options).fails(2, *words)
    assert listing(tmp_path) == before


def test_another_protocol_is_one_line(eckart: Eckart, does: Any, stored: Any, data: str) -> None:
    arguments = ["compare", stored(LLAMA), "--methods", "svd", "--keep", "0.9", "--data", data, "-o", "out"]
    assert eckart(*arguments).code == 0
    eckart(*arguments, "--samples", "64").fails(2, "samples (none there, 64 here)", "another output folder")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_what_was_finished_before_an_interruption_is_kept(
    process: Eckart, does: Any, stored: Any, data: str, tmp_path: Path, number: int
) -> None:
    arguments = ["compare", stored(LLAMA), "--methods", "svd", "--keep", "0.9,0.8", "--data", data]
    arguments += ["-o", "out", "--json"]
    stop = ["stop", [number, str(tmp_path / "out" / "results.csv"), "svd,0.9"]]
    answer = process(*arguments, worker=does(svd={"0.8": stop}))
    stub = (tmp_path / "log.pid").read_text()
    if number == signal.SIGKILL:
        os.kill(int(stub), signal.SIGKILL)  # a real one sees its pipe close: see test_comparing.py
    else:
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.splitlines()[-1] == "eckart: interrupted; nothing unfinished was left behind"
        assert not Path("/proc", stub).exists()
    assert [row["keep"] for row in table(tmp_path / "out")] == ["1.0", "0.9"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "results.csv"]
    (tmp_path / "log").unlink()
    rows = process(*arguments, worker=does()).json["rows"]
    assert [row["keep"] for row in rows] == [1.0, 0.9, 0.8]
    (asked,) = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert (asked["method"], asked["keeps"]) == ("svd", [0.8])
