"""`eckart sweep` from outside: what it says, its JSON, and its exit code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart, listing

from eckart.sweeping import measuring


def test_a_sweep_says_scores_sizes_and_texts(eckart: Eckart, stored: Any, data: str, tmp_path: Path) -> None:
    answer = eckart(
        "sweep", stored(LLAMA), "--ratios", "0.25,0.5", "--layers", "top:1..2", "--layers", "0",
        "--targets", "q_proj,v_proj", "--targets", "down_proj", "--task", "perplexity", "--data", data,
        "--prompt", "w1 [red]w2[/red] <b>", "--continuation", "3", "--save", "best", "-o", "out", "--json",
    )  # fmt: skip
    found = answer.json
    assert set(found) == {"out", "saved", "dense", "cells", "steps", "found", "notes", "seconds"}
    assert len(found["cells"]) == 12
    assert (found["steps"], found["found"], found["out"], found["saved"]) == ([], None, "out", "best")
    for word in ("ratio 0.25", "top:2", "q_proj,v_proj", "w1 [red]w2[/red] <b>", "best: saved"):
        assert word in answer.err, word
    kept = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert kept["cells"] == found["cells"]
    assert (tmp_path / "out" / "cells.csv").read_text().startswith("row,ratio,layers,targets,weights,")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<b>" not in page.replace("\\u003cb\\u003e", "")


def test_a_search_says_what_it_took(eckart: Eckart, stored: Any, data: str, tmp_path: Path) -> None:
    options = ["--ratios", "0.3,0.9", "--task", "perplexity", "--data", data, "--search", "-o", "out"]
    answer = eckart("sweep", stored(LLAMA), *options, "--json")
    taken = [step for step in answer.json["steps"] if step["taken"]]
    assert f"search: {len(taken)} matrices taken in {len(answer.json['steps'])} trials" in answer.err
    assert answer.json["cells"] == []
    eckart("sweep", stored(LLAMA), *options, "--grid").fails(2, "another request", "grid (False there")


def test_the_same_in_another_process(
    eckart: Eckart, process: Eckart, stored: Any, data: str, tmp_path: Path
) -> None:
    options = ["--ratios", "0.5", "--task", "perplexity", "--data", data, "--search", "--grid"]
    for run, out in ((eckart, "one"), (process, "two")):
        assert run("sweep", stored(LLAMA), *options, "--prompt", "w1", "-o", out).code == 0
    names = listing(tmp_path / "one")
    assert names.keys() == listing(tmp_path / "two").keys()
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_model_that_fails_is_exit_code_1_with_the_others_done(
    eckart: Eckart, stored: Any, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, times = measuring.run, []

    def broken(request: Any) -> Any:
        times.append(request)
        if len(times) == 2:
            raise MemoryError
        return really(request)

    monkeypatch.setattr(measuring, "run", broken)
    options = ["--ratios", "0.5", "--task", "perplexity", "--data", data, "-o", "out"]
    answer = eckart("sweep", stored(LLAMA), *options)
    assert answer.code == 1
    assert "0.5 top:1: failed" in answer.err
    assert "note: 0.5:top:1 failed: out of memory" in answer.err
    answer = eckart("sweep", stored(LLAMA), *options)
    assert answer.code == 0
    assert len(times) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ratios", "much", "--prompt", "x"], ["--ratios much", "not a number"]),
        (["--ratios", "0.5", "--prompt", ""], ["--prompt is empty"]),
        (["--ratios", "0.5", "--prompt", "x", "--layers", ""], ["--layers is empty"]),
        (["--ratios", "0.5"], ["--task", "--prompt"]),
    ],
)
def test_a_wrong_request_is_one_line_and_leaves_nothing(
    eckart: Eckart, stored: Any, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    eckart("sweep", stored(LLAMA), *arguments, "-o", "out").fails(2, *words)
    assert not (tmp_path / "out").exists()


def test_compress_by_hand_in_the_name_of_the_paper(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    made = eckart(
        "compress", stored(LLAMA), "-o", "out", "--method", "laser", "--ratio", "0.25", "--layers", "top:1",
        "--merge", "--json",
    ).json  # fmt: skip
    assert made["method"] == "laser"
    assert made["parameters"]["keep"] == 1
    assert any("multiplied out" in note for note in made["notes"])
    assert "eckart" not in (tmp_path / "out" / "config.json").read_text()
