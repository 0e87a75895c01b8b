"""`compare`: what each method is told, what the folder holds, and that it can be gone on with.

A stub stands in for the methods' processes here; what a process does with a real model is in
`test_comparing.py`.
"""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, T5, WORDS, write_data
from stub_worker import value

import eckart
from eckart import EckartError, UsageError, recipes
from eckart.types import Comparison, ComparisonRow

STUB = Path(__file__).parents[1] / "stub_worker.py"

Compare = Callable[..., Comparison]


@pytest.fixture
def does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Say what the stub does; without a word it gives every row."""
    monkeypatch.setattr("eckart.pipeline.workers.WORKER", [sys.executable, "-S", str(STUB)])

    def say(**methods: Any) -> None:
        monkeypatch.setenv("STUB", json.dumps({"log": str(tmp_path / "log"), **methods}))

    say()
    return say


@pytest.fixture
def compare(does: Any, stored: Any, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Two methods at two sizes on a tiny model, unless told otherwise; without the plot, which takes long."""
    monkeypatch.setattr("eckart.report.draw", lambda rows, lower_is_better: {})

    def run(**options: Any) -> Comparison:
        asked: dict[str, Any] = {
            "model": stored(LLAMA),
            "out": tmp_path / "out",
            "methods": ["svd", "svd-llm"],
            "keep": [0.9, 0.8],
            "data": data,
        }
        return eckart.compare(**(asked | options))

    return run


def requests(tmp_path: Path) -> list[dict[str, Any]]:
    """What the processes were told since this was last asked."""
    log = tmp_path / "log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return [json.loads(line) for line in lines]


def places(rows: list[ComparisonRow]) -> list[tuple[str, float]]:
    return [(row.method, row.keep) for row in rows]


def table(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open() as file:
        return list(csv.DictReader(file))


# What is measured


def test_the_dense_model_comes_first_then_methods_with_the_largest_size_first(
    compare: Compare, tmp_path: Path
) -> None:
    made = compare(keep=[0.7, 0.9])
    assert places(made.rows) == [
        ("dense", 1),
        ("svd", 0.9),
        ("svd", 0.7),
        ("svd-llm", 0.9),
        ("svd-llm", 0.7),
    ]
    assert [row.value for row in made.rows] == [value(*place) for place in places(made.rows)]
    assert (made.out, made.lower_is_better) == (str(tmp_path / "out"), True)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.json", "results.csv"]


def test_the_table_holds_every_field_of_every_row(compare: Compare, tmp_path: Path) -> None:
    made = compare()
    header, *_ = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert header == (
        "method,keep,of,parameters,targets_parameters,task,metric,value,loss,seconds,peak_memory_bytes,error"
    )
    read = [
        ComparisonRow.model_validate({k: v or None for k, v in row.items()})
        for row in table(tmp_path / "out")
    ]
    assert read == made.rows


def test_every_method_is_told_the_same_but_for_its_own_axes(compare: Compare, tmp_path: Path) -> None:
    compare(
        of="targets", layers="0-1", targets=["q_proj"], samples=9, max_length=33, limit=5, dtype="float32"
    )
    asked = requests(tmp_path)
    assert [request["method"] for request in asked] == ["dense", "svd", "svd-llm"]
    own = ("method", "recipe", "keeps")
    first, *others = [{key: value for key, value in request.items() if key not in own} for request in asked]
    assert all(other == first for other in others)
    assert first["of"] == "targets"
    assert (first["layers"], first["targets"], first["max_length"]) == ("0-1", ["q_proj"], 33)
    assert (first["limit"], first["dtype"], first["device"]) == (5, "float32", "cpu")
    dense, svd, llm = asked
    assert dense["recipe"] is None
    axes = ("metric", "structure", "allocation", "recovery")
    for name, request in (("svd", svd), ("svd-llm", llm)):
        assert {axis: request["recipe"][axis] for axis in axes} == {
            axis: getattr(recipes.METHODS[name], axis) for axis in axes
        }
        assert request["keeps"] == [0.9, 0.8]
        assert request["recipe"]["keep"] == 0.9
        assert request["recipe"]["samples"] == 9


def test_axes_of_a_method_may_be_named_in_any_order(compare: Compare, tmp_path: Path) -> None:
    compare(methods=["kfac: waterfill :pivoted", "svd:refit:input"])
    _, first, second = requests(tmp_path)
    assert first["method"] == "kfac:waterfill:pivoted"
    assert first["recipe"]["metric"] == "kfac"
    assert (first["recipe"]["structure"], first["recipe"]["allocation"]) == ("pivoted", "waterfill")
    assert (second["recipe"]["metric"], second["recipe"]["recovery"]) == ("input", "refit")
    assert second["recipe"]["structure"] == recipes.METHODS["svd"].structure


def test_without_methods_it_is_every_row_that_the_data_allow(
    compare: Compare, tmp_path: Path, data: str
) -> None:
    compare(methods=None)
    assert [request["method"] for request in requests(tmp_path)] == ["dense", *recipes.METHODS]
    compare(methods=None, data=None, test=data, out=tmp_path / "none")
    assert [request["method"] for request in requests(tmp_path)] == ["dense", "svd", "auto"]


# The task


def test_of_a_file_every_eighth_text_is_held_out_and_a_note_says_so(
    compare: Compare, tmp_path: Path, data: str
) -> None:
    made = compare()
    assert all(request["held_out"] and request["test"] is None for request in requests(tmp_path))
    assert made.notes == [
        f"without --test, perplexity is measured on every eighth text of {Path(data).name}, 3 of 24, which "
        "methods do not calibrate on"
    ]


def test_built_in_data_are_measured_on_their_test_split(compare: Compare, tmp_path: Path) -> None:
    made = compare(data="pocket-math")
    for request in requests(tmp_path):
        assert (request["data"], request["test"], request["held_out"]) == (
            "pocket-math",
            "pocket-math",
            False,
        )
    assert made.notes == []


def test_what_the_task_reads_may_be_a_file_of_its_own(compare: Compare, tmp_path: Path, data: str) -> None:
    test = str(write_data(tmp_path / "test.jsonl", rows=3, seed=1))
    assert compare(test=test).notes == []
    for request in requests(tmp_path):
        assert (request["data"], request["test"], request["held_out"]) == (data, test, False)
    notes = compare(test=data, out=tmp_path / "same").notes
    assert notes == ["methods calibrate on what the task is measured on"]


def test_an_encoder_is_measured_on_pairs(compare: Compare, stored: Any, tmp_path: Path) -> None:
    rows = [f"main\tnews\t2016\t1\t{n}\t{WORDS[n]} w40\tw50 {WORDS[n + 9]}\n" for n in range(9)]
    (tmp_path / "pairs.csv").write_text("".join(rows))
    compare(model=stored(BERT), test=str(tmp_path / "pairs.csv"))
    assert {request["task"] for request in requests(tmp_path)} == {"stsb"}


def test_a_task_that_brings_its_own_data_needs_none(compare: Compare, tmp_path: Path) -> None:
    compare(task="pocket-math", data=None, methods=["svd"])
    for request in requests(tmp_path):
        assert (request["task"], request["test"], request["held_out"]) == ("pocket-math", None, False)


# Going on


def test_a_second_call_starts_nothing(compare: Compare, tmp_path: Path) -> None:
    first = compare()
    requests(tmp_path)
    second = compare()
    assert requests(tmp_path) == []
    assert (second.rows, second.notes) == (first.rows, first.notes)


def test_methods_and_sizes_can_be_added(compare: Compare, tmp_path: Path) -> None:
    compare()
    requests(tmp_path)
    made = compare(methods=["asvd", "svd"], keep=[0.8, 0.7, 0.9])
    assert [(request["method"], request["keeps"]) for request in requests(tmp_path)] == [
        ("asvd", [0.9, 0.8, 0.7]),
        ("svd", [0.7]),
    ]
    expected = [("svd", keep) for keep in (0.9, 0.8, 0.7)] + [("svd-llm", keep) for keep in (0.9, 0.8)]
    expected += [("asvd", keep) for keep in (0.9, 0.8, 0.7)]
    assert places(made.rows) == [("dense", 1), *expected]
    kept = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert list(kept["methods"]) == ["svd", "svd-llm", "asvd"]
    assert kept["keeps"] == [0.9, 0.8, 0.7]


class StopError(Exception):
    """What a user's callback may raise."""


@pytest.mark.parametrize("after", range(1, 5))
def test_what_was_finished_is_kept_and_the_rest_is_done_later(
    compare: Compare, tmp_path: Path, after: int
) -> None:
    seen: list[ComparisonRow] = []

    def stop(row: ComparisonRow) -> None:
        seen.append(row)
        assert places(seen) == [(line["method"], float(line["keep"])) for line in table(tmp_path / "out")]
        if len(seen) == after:
            raise StopError

    with pytest.raises(StopError):
        compare(on_row=stop)
    requests(tmp_path)
    rest: list[ComparisonRow] = []
    made = compare(on_row=rest.append)
    assert made.rows == seen + rest
    assert len(made.rows) == 5
    assert sum(len(request["keeps"]) for request in requests(tmp_path)) == 5 - after


def test_a_process_is_ended_when_its_rows_are_not_wanted_any_more(
    compare: Compare, does: Any, tmp_path: Path
) -> None:
    does(svd={"0.8": ["wait", str(tmp_path / "pid")]})

    def stop(row: ComparisonRow) -> None:
        if row.method == "svd":
            while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(on_row=stop)
    assert not Path("/proc", (tmp_path / "pid").read_text()).exists()
    assert places(compare(methods=["svd"], keep=[0.9]).rows) == [("dense", 1), ("svd", 0.9)]


CHANGES: dict[str, Any] = {
    "of": "targets",
    "targets": ["q_proj"],
    "layers": "0",
    "samples": 64,
    "max_length": 100,
    "task": "pocket-math",
    "limit": 3,
    "dtype": "bfloat16",
    "data": "pocket",
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_protocol_is_refused_and_named(compare: Compare, tmp_path: Path, change: str) -> None:
    compare()
    requests(tmp_path)
    before = (tmp_path / "out" / "results.csv").read_bytes()
    with pytest.raises(UsageError, match=rf"another protocol: .*\b{change} \(.* there, .* here\)"):
        compare(**{change: CHANGES[change]})
    assert requests(tmp_path) == []
    assert (tmp_path / "out" / "results.csv").read_bytes() == before


@pytest.mark.parametrize("what", ["model", "data"])
def test_what_has_changed_in_its_place_is_named(
    compare: Compare, stored: Any, data: str, tmp_path: Path, what: str
) -> None:
    model, own = (
        shutil.copytree(stored(LLAMA), tmp_path / "model"),
        str(shutil.copy(data, tmp_path / "own.jsonl")),
    )
    compare(model=model, data=own)
    if what == "model":
        LLAMA.build(seed=1).save_pretrained(model)
        named = r"model \(model has changed\)"
    else:
        write_data(tmp_path / "own.jsonl", seed=1)
        named = r"data \(own.jsonl has changed\)"
    with pytest.raises(UsageError, match=named):
        compare(model=model, data=own)


def test_what_was_moved_is_the_same(compare: Compare, stored: Any, data: str, tmp_path: Path) -> None:
    compare()
    requests(tmp_path)
    model, own = (
        shutil.copytree(stored(LLAMA), tmp_path / "model"),
        str(shutil.copy(data, tmp_path / "own.jsonl")),
    )
    (tmp_path / "out").rename(tmp_path / "moved")
    compare(model=model, data=own, out=tmp_path / "moved")
    assert requests(tmp_path) == []


def test_a_method_that_means_something_else_now_is_named(
    compare: Compare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare()
    monkeypatch.setitem(recipes.METHODS, "svd", recipes.METHODS["asvd"])
    with pytest.raises(UsageError, match=r"method svd \(identity:lowrank:uniform:none there, input-scale:"):
        compare()


def test_another_version_is_named(compare: Compare, tmp_path: Path) -> None:
    compare()
    path = tmp_path / "out" / "compare.json"
    kept = json.loads(path.read_text())
    kept["protocol"]["torch"] = "1.0"
    path.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match=r"torch \(1.0 there, 2"):
        compare()


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
        "method kfac:pivotd: unknown value 'pivotd'; did you mean pivoted? there are: lowrank, pivoted, ",
    ),
    "dense": ({"methods": ["kfac:dense"]}, "unknown value 'dense'"),
    "two structures": ({"methods": ["svd:pivoted:lowrank"]}, "pivoted and lowrank are both a structure"),
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


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch, compare: Compare) -> None:
    monkeypatch.setattr("eckart.pipeline.workers.WORKER", ["/no/such/program"])


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
