"""Data that are no single file: folders, patterns, standard input, and what somebody has in memory."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from outside import Eckart

from eckart.data import digest_of, named, read_rows, read_texts
from eckart.types import Text, UsageError

ROWS = [{"text": "one"}, {"text": "two"}]
PAIR = [("what is it", "a cat")]


def texts(source: Any) -> list[Text]:
    return read_texts(str(named(source)))


def test_texts_pairs_and_rows_however_they_are_held() -> None:
    expected = [Text("", "one"), Text("", "two")]
    for held in (["one", "two"], ROWS, (row for row in ROWS), iter(["one", "two"]), ("one", "two")):
        assert texts(held) == expected
    assert texts(datasets.Dataset.from_list(ROWS)) == expected
    assert texts(PAIR) == texts([["what is it", "a cat"]]) == [Text("what is it", "a cat")]
    assert read_rows(str(named(ROWS))) == ROWS


def test_the_same_rows_have_the_same_name() -> None:
    assert named(["one", "two"]) == named(ROWS)
    assert named(["one", "two"]) != named(["two", "one"])
    assert digest_of(named(ROWS)) == digest_of(named(ROWS))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (3, "data is of type int"),
        (b"one", "data is of type bytes"),
        ({"text": "one"}, "data is of type dict"),
        ([], "data is empty"),
        (["one", 3], "data, row 2 is of type int"),
        ([("a", "b", "c")], "data, row 1 is of type tuple"),
        ([{"text": None}], "data, line 1: field text is null"),
        ([{"other": "one"}], "data, line 1: no field text"),
        (["\ud800"], "data, line 1: a character that is none"),
    ],
    ids=str,
)
def test_what_is_no_data_is_named(wrong: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        texts(wrong)
    assert "eckart-data-" not in str(caught.value)


def test_a_process_that_is_started_has_them_too_and_they_end_with_the_first() -> None:
    code = (
        "import os, subprocess, sys\nfrom eckart.data import named\nname = named(['one'])\n"
        "inner = f'from eckart.data import read_texts; print(read_texts({name!r})[0].text)'\n"
        "subprocess.run([sys.executable, '-c', inner], check=True)\nprint(os.environ['ECKART_SPOOL'], name)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ECKART_SPOOL"}
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout
    one, where = said.splitlines()
    folder, name = where.split()
    assert one == "one"
    assert not Path(folder).exists()
    if name != named(["one"]):
        with pytest.raises(UsageError, match="memory of a process that has ended"):
            read_texts(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts" / "more").mkdir(parents=True)
    (tmp_path / "texts" / "b.jsonl").write_text('{"text": "one"}\n')
    (tmp_path / "texts" / "a.txt").write_text("two")
    (tmp_path / "texts" / "more" / "c.csv").write_text("Text,other\nthree,x\n")
    (tmp_path / "texts" / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "texts" / ".hidden.txt").write_text("four")
    return tmp_path / "texts"


def test_a_folder_is_all_its_files_and_a_pattern_what_it_fits(folder: Path) -> None:
    assert [each.text for each in texts(folder)] == ["two", "one", "three"]
    assert [each.text for each in texts(f"{folder}/*.jsonl")] == ["one"]
    assert [each.text for each in texts(f"{folder}/**/*.csv")] == ["three"]
    assert digest_of(str(folder)) != digest_of(f"{folder}/*.jsonl")
    before = digest_of(str(folder))
    (folder / "a.txt").write_text("changed")
    assert digest_of(str(folder)) != before
    for none in (folder.parent / "empty", f"{folder}/*.parquet"):
        Path(folder.parent / "empty").mkdir(exist_ok=True)
        with pytest.raises(UsageError, match="has no file that data is read from"):
            texts(none)
    (folder / "b.jsonl").write_text("{")
    with pytest.raises(UsageError, match=r"b\.jsonl, line 1: broken JSON"):
        texts(folder)


def test_capitals_in_the_names_of_fields_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"Prompt": "p", "COMPLETION": "c"}))
    assert texts(tmp_path / "a.jsonl") == [Text("p", "c")]
    assert read_texts(str(tmp_path / "a.jsonl"), fields="completion") == [Text("", "c")]


@pytest.mark.parametrize(
    ("content", "expected"), [(b'{"text": "one"}\n', "one"), (b"running text\n", "running text")]
)
def test_standard_input(content: bytes, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert [each.text for each in texts("-")] == [expected]
    with pytest.raises(UsageError, match="nothing came"):
        texts("-")


def test_python_takes_them_where_the_command_line_takes_a_file(stored: Any, data: str) -> None:
    from architectures import LLAMA

    import eckart

    model = str(stored(LLAMA))
    lines = [json.loads(line) for line in Path(data).read_text().splitlines()]
    of_file = eckart.compress(model, keep=0.8, method="svd-llm", data=data)
    of_rows = eckart.compress(model, keep=0.8, method="svd-llm", data=(line for line in lines))
    for name, weight in of_file.model.state_dict().items():
        assert (of_rows.model.state_dict()[name] == weight).all()
    score = eckart.evaluate(model, "perplexity", data=Path(data))
    assert eckart.evaluate(model, "perplexity", data=lines).value == score.value


def test_limit_counts_windows_of_running_text(process: Eckart, stored: Any, tmp_path: Path) -> None:
    from architectures import LLAMA

    (tmp_path / "long.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 " * 100)
    asked = ("evaluate", stored(LLAMA), "--task", "perplexity", "--data", "long.txt", "--max-length", "16")
    assert process(*asked, "--limit", "3", "--json").json["windows"] == 3
    assert process(*asked, "--json").json["windows"] > 40
