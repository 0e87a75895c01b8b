"""`compare` where something goes wrong: a row, a process, the request, the folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, T5, write_data
from comparison import Compare, requests, table

import eckart
from eckart import EckartError, UsageError

# What goes wrong


def test_a_row_that_fails_says_why_and_the_others_go_on(compare: Compare, does: Any, tmp_path: Path) -> None:
    does(svd={"0.9": ["error", "too low"]})
    made = compare()
    failed = next(row for row in made.rows if row.error)
    assert (failed.method, failed.keep, failed.error, failed.value) == ("svd", 0.9, "too low", None)
    assert [row.value is None for row in made.rows] == [False, True, False, False, False]
    assert "svd at 0.9 failed: too low" in made.notes
    assert [line["error"] for line in table(tmp_path / "out")] == ["", "too low", "", "", ""]


def test_a_row_that_failed_is_tried_again(compare: Compare, does: Any, tmp_path: Path) -> None:
    does(svd={"0.9": ["error", "no memory"]})
    compare()
    requests(tmp_path)
    does()
    made = compare()
    assert [(request["method"], request["keeps"]) for request in requests(tmp_path)] == [("svd", [0.9])]
    assert not any(row.error for row in made.rows)
    assert not any("failed" in note for note in made.notes)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (["kill", ""], "ended by SIGKILL, as the system does where memory runs out"),
        (["half", ""], "ended by SIGKILL"),
        (["exit", "ImportError: no such thing"], "exit code 3: ImportError: no such thing"),
    ],
)
def test_a_process_that_dies_loses_its_own_rows_alone(
    compare: Compare, does: Any, end: list[str], words: str
) -> None:
    does(svd={"0.8": end})
    rows = {(row.method, row.keep): row for row in compare(keep=[0.9, 0.8, 0.7]).rows}
    for place, row in rows.items():
        assert (row.value is None) == (place in {("svd", 0.8), ("svd", 0.7)})
        assert row.value is not None or words in str(row.error)


def test_a_method_that_cannot_begin_fails_at_every_size(compare: Compare, does: Any) -> None:
    does(svd={"error": "no gradient reaches this model"})
    rows = compare().rows
    assert [row.error for row in rows if row.method == "svd"] == ["no gradient reaches this model"] * 2
    assert all(row.value for row in rows if row.method != "svd")


@pytest.mark.parametrize(("code", "kind"), [(1, EckartError), (2, UsageError)])
def test_without_a_dense_model_there_is_nothing_to_compare(
    compare: Compare, does: Any, tmp_path: Path, code: int, kind: type[EckartError]
) -> None:
    does(dense={"error": "a weight is not finite", "exit_code": code})
    with pytest.raises(EckartError, match="a weight is not finite") as raised:
        compare()
    assert type(raised.value) is kind
    assert len(requests(tmp_path)) == 1
    assert not (tmp_path / "out").exists()


def test_notes_name_their_method_and_are_kept(compare: Compare, does: Any) -> None:
    does(svd={"note": "x stays dense", "0.8": ["note", "not refitted"]})
    made = compare(data="pocket")
    assert made.notes == ["svd: x stays dense", "svd at 0.8: not refitted"]
    assert compare(data="pocket").notes == made.notes


def test_without_matplotlib_a_note_says_how_to_get_it(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(rows: Any, lower_is_better: bool) -> dict[str, bytes]:
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr("eckart.report.draw", draw)
    made = compare(data="pocket")
    assert made.notes == ['no plot: it needs matplotlib; pip install "eckart[report]"']
    assert len(table(tmp_path / "out")) == 5


def test_progress_is_shown_as_it_is_made(compare: Compare) -> None:
    said: list[tuple[str, int]] = []

    def track(items: Any, description: str, total: int) -> Iterator[Any]:
        done = 0
        for item in items:
            yield item
            done += 1
        assert done == total
        said.append((description, total))

    compare(track=track)
    methods = ["1 of 5, dense", "2 of 5, svd", "4 of 5, svd-llm"]
    assert said == [(f"{method}: calibrating", 2) for method in methods]


# What is refused before anything is started


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no methods": ({"methods": []}, "--methods is empty"),
    "no sizes": ({"keep": []}, "--keep is empty"),
    "method": ({"methods": ["svd", "svdllm"]}, "unknown method 'svdllm'; did you mean svd-llm?"),
    "value": (
        {"methods": ["kfac:pivotd"]},
        "method kfac:pivotd: unknown value 'pivotd'; did you mean pivoted? there are: kronecker, lowrank, ",
    ),
    "dense": ({"methods": ["kfac:dense"]}, "unknown value 'dense'"),
    "two structures": ({"methods": ["svd:pivoted:lowrank"]}, "pivoted and lowrank both say the structure"),
    "empty value": ({"methods": ["svd:"]}, "method svd:: unknown value ''"),
    "method twice": ({"methods": ["svd", "svd"]}, "method svd is named twice"),
    "size twice": ({"keep": [0.8, 0.80]}, "keep 0.8 is named twice"),
    "keep 0": ({"keep": [0.9, 0.0]}, "keep 0 is not a share"),
    "keep 1.5": ({"keep": [1.5, 0.5]}, "keep 1.5 is not a share"),
    "keep nan": ({"keep": [float("nan")]}, "keep nan is not a share"),
    "default methods at keep 7": ({"keep": [7.0], "methods": None}, "keep 7 is not a share"),
    "data": ({"data": None}, "svd-llm needs data"),
    "no texts": ({"data": None, "methods": ["svd"]}, "task perplexity needs texts: give --test FILE"),
    "no such data": ({"data": "no.jsonl"}, "no such data file: no.jsonl"),
    "no such test": ({"test": "no.jsonl"}, "no such data file: no.jsonl"),
    "of": ({"of": "layers"}, "--of layers"),
    "targets": ({"targets": ["v_prj"]}, "v_prj"),
    "layers": ({"layers": "9"}, "--layers 9"),
    "samples": ({"samples": 0}, "--samples and --max-length are 1 or more"),
    "max length": ({"max_length": 0}, "--samples and --max-length are 1 or more"),
    "limit": ({"limit": 0}, "--limit 0"),
    "dtype": ({"dtype": "int4"}, "dtype 'int4'"),
    "device": ({"device": "abacus"}, "device abacus"),
    "task": ({"task": "perplexty"}, "unknown task 'perplexty'; did you mean perplexity?"),
    "stsb": ({"task": "stsb"}, "LlamaForCausalLM gives no hidden states to pool: stsb is for encoders"),
    "test of its own": ({"task": "pocket", "test": "pocket"}, "task pocket brings its own data"),
    "model": ({"model": "no/such/model"}, "no such model: no/such/model"),
}


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize("request_", REFUSED)
def test_a_wrong_request_is_refused_before_anything_is_started(
    compare: Compare, tmp_path: Path, request_: str
) -> None:
    options, words = REFUSED[request_]
    with pytest.raises(UsageError) as raised:
        compare(**options)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 500
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_starts")
@pytest.mark.parametrize(
    ("architecture", "task", "words"),
    [
        (BERT, None, "task stsb needs sentence pairs: give --test FILE"),
        (BERT, "perplexity", "BertModel predicts no next token"),
        (BERT, "pocket", "BertModel predicts no next token"),
        (T5, "stsb", "stsb is for encoders"),
    ],
    ids=str,
)
def test_a_task_that_the_model_cannot_do_is_refused(
    compare: Compare, stored: Any, tmp_path: Path, architecture: Any, task: str | None, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        compare(model=stored(architecture), task=task)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("nothing_starts")
def test_a_file_with_too_few_texts_to_hold_some_out_is_refused(compare: Compare, tmp_path: Path) -> None:
    few = str(write_data(tmp_path / "few.jsonl", rows=7))
    with pytest.raises(UsageError, match=r"few.jsonl has too few texts \(7\).*give --test FILE"):
        compare(data=few)


@pytest.mark.usefixtures("nothing_starts")
def test_a_model_in_memory_is_refused(compare: Compare) -> None:
    with pytest.raises(UsageError, match="its folder or hub id, not a LlamaForCausalLM in memory"):
        compare(model=LLAMA.build())


@pytest.mark.usefixtures("nothing_starts")
def test_a_compressed_model_is_refused(compare: Compare, stored: Any, tmp_path: Path) -> None:
    eckart.compress(stored(LLAMA), tmp_path / "small", keep=0.9, method="svd")
    with pytest.raises(UsageError, match="compressed already"):
        compare(model=tmp_path / "small")


@pytest.mark.usefixtures("nothing_starts")
def test_a_folder_with_something_else_in_it_stays_as_it_is(compare: Compare, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("the only copy")
    with pytest.raises(UsageError, match=r"out exists already and holds something else \(thesis.txt\)"):
        compare()
    assert [path.name for path in out.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").touch()
    for taken in ("file", "file/out"):
        with pytest.raises(UsageError, match=taken):
            compare(out=tmp_path / taken)


def test_an_empty_folder_may_be_filled(compare: Compare, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").touch()
    assert len(compare().rows) == 5


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("compare.json", "{"),
        ("compare.json", "{}"),
        ("results.csv", "method,keep\nsvd,0.9\n"),
        ("results.csv", "method,keep,of,task,value\nsvd,0.9,model,perplexity,nan\n"),
        ("results.csv", "method,keep,of,task\nunheard-of,0.9,model,perplexity\n"),
        ("results.csv", "\0\n\xff"),
    ],
)
def test_a_damaged_folder_is_named(
    compare: Compare, tmp_path: Path, file: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare()
    requests(tmp_path)
    (tmp_path / "out" / file).write_text(content, encoding="latin-1")
    with pytest.raises(EckartError, match="damaged") as raised:
        compare()
    assert file in str(raised.value)
    assert requests(tmp_path) == []


def test_a_failed_write_leaves_what_was_there(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EckartError, match="could not be written"):
        compare(keep=[0.5])
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
