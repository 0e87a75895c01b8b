"""`eckart bases` from outside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import LAYERS, LLAMA, WIDTH
from outside import Eckart, listing


def test_json_and_the_folder_say_the_same(process: Eckart, stored: Any, tmp_path: Path) -> None:
    answer = process(
        "bases",
        stored(LLAMA),
        "-o",
        "out",
        "--targets",
        "q_proj,up_proj",
        "--bases",
        "2",
        "--top",
        "3",
        "--json",
    )
    made = answer.json
    assert made == json.loads((tmp_path / "out" / "bases.json").read_text(encoding="utf-8"))
    assert set(made) == {"out", "model", "targets", "notes", "seconds"}
    assert (made["out"], made["model"]) == ("out", "llama")
    assert made["seconds"] > 0
    assert len(made["targets"]) == 2 * LAYERS
    for target in made["targets"]:
        assert set(target) == {"name", "shape", "bases"}
        assert target["shape"][1] == WIDTH
        for index, basis in enumerate(target["bases"]):
            assert set(basis) == {"index", "value", "share", "reads", "writes"}
            assert basis["index"] == index
            assert [len(basis["reads"][end]) for end in ("plus", "minus")] == [3, 3]
            assert (basis["writes"] is None) == target["name"].endswith("up_proj")
    assert "<!DOCTYPE html>" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "out/report.html" in answer.err


def test_people_see_the_first_few_weights(eckart: Eckart, stored: Any, tmp_path: Path) -> None:
    before = listing(tmp_path)
    answer = eckart("bases", stored(LLAMA))
    assert answer.code == 0
    assert f"4 of {sum(LLAMA.targets.values())} weights" in answer.out
    assert "-o DIR" in answer.out
    assert "note: 4 weights are square" in answer.err
    assert listing(tmp_path) == before


def test_a_folder_that_compress_wrote(eckart: Eckart, stored: Any) -> None:
    assert eckart("compress", stored(LLAMA), "-o", "small", "--keep", "0.6").code == 0
    made = eckart("bases", "small", "--json").json
    assert made["model"] == "small"
    assert made["out"] is None
    assert [target["name"] for target in made["targets"]] == [
        target["name"] for target in eckart("bases", stored(LLAMA), "--json").json["targets"]
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--bases", "0"], ["--bases 0"]),
        (["--top", "-1"], ["--top -1"]),
        (["--targets", "q_prj"], ["q_prj fits no linear layer", "did you mean q_proj"]),
        (["-o", "."], ["exists already"]),
        (["--device", "nowhere"], ["device nowhere"]),
    ],
)
def test_wrong_requests(eckart: Eckart, stored: Any, options: list[str], words: list[str]) -> None:
    eckart("bases", stored(LLAMA), *options).fails(2, *words)


def test_a_model_without_a_tokenizer(eckart: Eckart, tmp_path: Path) -> None:
    LLAMA.build().save_pretrained(tmp_path / "bare")
    eckart("bases", "bare").fails(2, "bare has no tokenizer", "named by tokens")
