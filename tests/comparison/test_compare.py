"""`compare`: what each method is told, what the folder holds, and that it can be gone on with.

A stub stands in for the methods' processes here; what a process does with a real model is in
`test_comparing.py`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from architectures import BERT, LLAMA, WORDS, write_data
from comparison import Compare, places, requests, table
from stub_worker import value

import eckart
from eckart import UsageError, folders, recipes, structures
from eckart.types import ComparisonRow


def compared() -> list[str]:
    """The rows that can be compared: those that a share of the parameters can be asked of."""
    return [
        name
        for name, row in recipes.METHODS.items()
        if not row.by_hand and structures.find(row.structure).fewer
    ]


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
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "compare.json",
        "report.html",
        "results.csv",
    ]


def test_the_table_holds_every_field_of_every_row(compare: Compare, tmp_path: Path) -> None:
    made = compare()
    header, *_ = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert header == (
        "method,keep,of,quantize,parameters,targets_parameters,bytes,task,metric,value,loss,divergence,"
        "same_top,seconds,peak_memory_bytes,error"
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
    first = first["protocol"]
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


def test_rounding_is_an_axis_and_the_dense_model_rounded_a_method_of_one_size(
    compare: Compare, tmp_path: Path
) -> None:
    compare(methods=["svd:int8", "dense:int4"])
    _, first, second = requests(tmp_path)
    assert (first["recipe"]["quantize"], first["keeps"]) == ("int8", [0.9, 0.8])
    recipe = second["recipe"]
    assert (second["method"], second["keeps"]) == ("dense:int4", [1.0])
    assert (recipe["keep"], recipe["quantize"], recipe["metric"]) == (1.0, "int4", "identity")


def test_without_methods_it_is_every_row_that_the_data_allow(
    compare: Compare, tmp_path: Path, data: str
) -> None:
    compare(methods=None)
    untrained = [name for name in compared() if name not in recipes.SELECTIONS]
    assert [request["method"] for request in requests(tmp_path)] == ["dense", *untrained]
    compare(methods=None, data=None, test=data, out=tmp_path / "none")
    assert [request["method"] for request in requests(tmp_path)] == ["dense", "svd", "auto"]


def test_what_trains_is_compared_only_where_all_do(compare: Compare, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"basis-training trains: say how long"):
        compare(methods=["svd", "basis-training"])
    compare(methods=None, training={"epochs": 1}, out=tmp_path / "trained")
    asked = requests(tmp_path)
    assert [request["method"] for request in asked] == ["dense", *compared()]
    assert all(request["protocol"]["training"]["epochs"] == 1 for request in asked)
    with pytest.raises(UsageError, match=r"another protocol: .*training"):
        compare(methods=["svd"], training={"epochs": 2}, out=tmp_path / "trained")


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
    assert {request["protocol"]["task"] for request in requests(tmp_path)} == {"stsb"}


def test_a_task_that_brings_its_own_data_needs_none(compare: Compare, tmp_path: Path) -> None:
    compare(task="pocket-math", data=None, methods=["svd"])
    for request in requests(tmp_path):
        assert (request["protocol"]["task"], request["test"], request["held_out"]) == (
            "pocket-math",
            None,
            False,
        )


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
    does(svd={"0.8": ["wait", ""]})
    pid = tmp_path / "log.pid"

    def stop(row: ComparisonRow) -> None:
        if row.method == "svd":
            while not pid.exists() or not pid.read_text():
                pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(on_row=stop)
    assert not Path("/proc", pid.read_text()).exists()
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


def test_another_protocol_gives_way_where_that_is_wanted(compare: Compare, tmp_path: Path) -> None:
    compare()
    (tmp_path / "out" / "mine.txt").write_text("of the first")
    with folders.overwriting():
        compare()
        assert (tmp_path / "out" / "mine.txt").is_file()
        requests(tmp_path)
        compare(**CHANGES)
    assert requests(tmp_path)[0]["protocol"]["task"] == CHANGES["task"]
    assert not (tmp_path / "out" / "mine.txt").exists()
    assert {path.name for path in tmp_path.iterdir() if "out" in path.name} == {"out"}


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


def test_a_comparison_is_asked_for_again_by_what_it_wrote(
    compare: Compare, stored: Any, data: str, tmp_path: Path
) -> None:
    compare(samples=8, training={"steps": 2})
    first = json.loads((tmp_path / "out" / "compare.json").read_text())
    eckart.compare(out=tmp_path / "again", recipe=tmp_path / "out" / "compare.json")
    assert json.loads((tmp_path / "again" / "compare.json").read_text()) == first
    assert first["asked"] == {"model": str(stored(LLAMA)), "data": data, "test": None}
