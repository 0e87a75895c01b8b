"""What is saved does itself again: the same bytes from `--recipe`, in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

import eckart


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "options",
    [
        {"model": "pocket", "keep": 0.8, "method": "svd"},
        {"keep": 0.7, "data": True, "samples": 16, "max_length": 32},
        {"keep": 0.8, "method": "svd", "quantize": "int8"},
        {"keep": 0.5, "method": "basis-training", "data": True, "steps": 6, "batch": 4, "prunes": 3},
        {"keep": 0.7, "method": "svd", "data": True, "steps": 2, "merge": True, "dtype": "float32"},
        {"rank": 8, "targets": ["q_proj", "up_proj"], "layers": "top:1", "blocks": True},
    ],
    ids=["svd without data", "auto with data", "int8", "basis-training", "trained and merged", "by blocks"],
)
def test_a_manifest_gives_the_same_bytes_again(
    options: dict[str, Any], process: Eckart, stored: Any, data: str, tmp_path: Path
) -> None:
    asked = {**options, **({"data": data} if "data" in options else {})}
    model = asked.pop("model", str(stored(LLAMA)))
    made = eckart.compress(model, tmp_path / "out", **asked)
    assert made.manifest.recipe.model == model
    assert made.manifest.recipe.data == asked.get("data")
    again = process("compress", "--recipe", "out/eckart.json", "-o", "again")
    assert again.code == 0, again.err
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def test_a_recovered_folder_gives_the_same_bytes_again(
    process: Eckart, stored: Any, data: str, tmp_path: Path
) -> None:
    model = str(stored(LLAMA))
    eckart.compress(model, tmp_path / "cut", keep=0.7, method="svd")
    eckart.recover(tmp_path / "cut", tmp_path / "out", data=data, teacher=model, labels=0.5, steps=2, batch=4)
    for verb, out, like in (("recover", "again", "out"), ("compress", "recut", "cut")):
        done = process(verb, "--recipe", "out/eckart.json", "-o", out)
        assert done.code == 0, done.err
        assert contents(tmp_path / out) == contents(tmp_path / like)


def test_what_is_given_beside_a_manifest_wins(stored: Any, tmp_path: Path) -> None:
    eckart.compress(str(stored(LLAMA)), tmp_path / "out", keep=0.8, method="svd")
    made = eckart.compress(recipe=tmp_path / "out" / "eckart.json", rank=4)
    assert (made.manifest.recipe.rank, made.manifest.recipe.keep) == (4, None)


def test_a_manifest_names_only_what_was_given(stored: Any, tmp_path: Path) -> None:
    eckart.compress(str(stored(LLAMA)), tmp_path / "out", keep=0.8, method="svd")
    text = (tmp_path / "out" / "eckart.json").read_text()
    manifest = json.loads(text)
    assert manifest["recipe"].pop("model") == str(stored(LLAMA))
    assert str(tmp_path) not in json.dumps(manifest)
    assert str(Path(stored(LLAMA)).parent) not in json.dumps(manifest)
