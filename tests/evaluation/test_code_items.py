"""Rows into programs: what is cut from an answer, what is taken out of it, and that the references pass."""

from __future__ import annotations

import gzip
import json
from math import comb
from pathlib import Path
from typing import Any

import pytest

from eckart.evaluation.code import Item, humaneval_items, mbpp_items, pass_at_k, run_programs
from eckart.types import UsageError

TASKS = Path(__file__).parents[3] / "shared" / "data" / "tasks"

HUMANEVAL = {
    "task_id": "HumanEval/x",
    "prompt": "from typing import List\n\n\ndef one():\n    return 1\n\n\n"
    'def total(xs: List[int]) -> int:\n    """Sum."""\n',
    "entry_point": "total",
    "test": "\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert candidate([]) == 0\n",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to add.",
    "code": "def add(a, b):\r\n  return a + b",
    "test_list": ["assert add(1, 2) == 3", "assert add(x, 0) == 5"],
    "test_setup_code": "x = add(2, 3)\r\n",
}
BODY = "    return sum(xs)\n"
WHOLE = "def total(xs):\n    return sum(xs)\n"


def passing(item: Item, answers: list[str]) -> list[bool]:
    return [outcome.passed for outcome in run_programs([item.program(answer) for answer in answers])]


def test_humaneval_takes_the_function_out_of_what_was_written() -> None:
    (item,) = humaneval_items([HUMANEVAL])
    assert (item.name, item.prompt) == ("HumanEval/x", HUMANEVAL["prompt"])
    right = [
        BODY,
        BODY.replace("\n", "\r\n"),
        BODY + "\n\ndef check(candidate):\n    1 / 0\n",
        BODY + "print(total(1))",
        BODY + "# the end\n1 / 0",
        BODY + "That is all: it's the sum.",
        BODY + "```\nIt sums.\n```python\n1 / 0\n```",
        "    return sum(\n        xs\n)\n\nfoo",
        "\n    x = one() - 1\n\n    return x + sum(xs)\n",
        WHOLE,
        f"\nfrom math import fsum\n\n{WHOLE}print(total('a'))\n",
        f"```python\n{WHOLE}```\nIt sums.",
        f"Sure!\n\n```python\n{HUMANEVAL['prompt']}{BODY}\nassert total([1]) == 2\n```\n\n```\n1 / 0\n```",
        f"```\n{BODY}```",
        "```python\ndef total(xs: List[int]):\n    return sum(xs) + one() - 1",
    ]
    assert passing(item, right) == [True] * len(right)
    wrong = ["", "\n", "    pass", "foo", "    return 3", f"def other():\n    pass\n{WHOLE[4:]}", "```\n```"]
    assert passing(item, wrong) == [False] * len(wrong)


def test_humaneval_stops_after_a_function_and_not_at_a_fenced_one() -> None:
    (item,) = humaneval_items([HUMANEVAL])
    assert any(stop in f"{BODY}\n\ndef other():" for stop in item.stop)
    assert not any(stop in f"```python\n{WHOLE}" for stop in item.stop)


def test_mbpp_asks_as_training_did_and_runs_the_setup_after_the_code() -> None:
    (item,) = mbpp_items([MBPP])
    assert item.name == "MBPP/7"
    asked = "Write a function to add.\nassert add(1, 2) == 3\nassert add(x, 0) == 5"
    assert item.prompt == f'"""\n{asked}\n"""\n'
    right = [
        MBPP["code"],
        f'{MBPP["code"]}\n"""\nWrite a function to do something else.\n',
        f"import math\n\nclass A: pass\n\n{MBPP['code']}\nassert add(1, 1) == 3",
        f"{MBPP['code']}\n```\nIt adds.",
        f"Here it is:\n```python\n{MBPP['code']}\n```\nIt adds.",
    ]
    assert passing(item, right) == [True] * len(right)
    assert passing(item, ["", "def add(a, b): return 3", "add"]) == [False] * 3
    assert not any(stop in right[-1].partition("```python")[0] for stop in item.stop)


@pytest.mark.parametrize("field", ["task_id", "prompt", "test", "entry_point"])
def test_a_humaneval_row_without_a_field_is_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"row 2 has no field {field}"):
        humaneval_items([HUMANEVAL, {key: HUMANEVAL[key] for key in HUMANEVAL if key != field}])


@pytest.mark.parametrize("field", ["task_id", "text", "test_list"])
def test_an_mbpp_row_without_a_field_is_refused(field: str) -> None:
    with pytest.raises(UsageError, match=f"row 1 has no field {field}"):
        mbpp_items([{key: MBPP[key] for key in MBPP if key != field}, MBPP])


def test_fields_of_another_kind_are_refused() -> None:
    with pytest.raises(UsageError, match="row 1: prompt is not a text"):
        humaneval_items([{**HUMANEVAL, "prompt": 3}])
    for tests in ("assert True", [], [1]):
        with pytest.raises(UsageError, match="row 1: test_list is not a list of asserts"):
            mbpp_items([{**MBPP, "test_list": tests}])


def rows(name: str) -> list[dict[str, Any]]:
    path = TASKS / name
    if not path.is_file():
        pytest.skip(f"no {path}: the data sets are not here")
    raw = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(raw) if name.endswith("gz") else raw).splitlines()]


def failing(items: list[Item], answers: list[str]) -> dict[str, str]:
    programs = [item.program(answer) for item, answer in zip(items, answers, strict=True)]
    # One of them computes for seconds, and on a busy machine for more than a program is given.
    outcomes = run_programs(programs, seconds=120.0)
    return {item.name: out.why for item, out in zip(items, outcomes, strict=True) if not out.passed}


def test_every_canonical_solution_of_humaneval_passes() -> None:
    found = rows("HumanEval.jsonl.gz")
    assert len(found) == 164
    items = humaneval_items(found)
    assert failing(items, [row["canonical_solution"] for row in found]) == {}
    fenced = [f"```python\n{row['prompt']}{row['canonical_solution']}```\n" for row in found]
    assert failing(items, fenced) == {}
    assert len(failing(items, ["    pass\n"] * 164)) == 164


def test_every_reference_of_mbpp_passes() -> None:
    found = rows("mbpp.jsonl")
    assert len(found) == 974
    assert failing(mbpp_items(found), [row["code"] for row in found]) == {}


def test_pass_at_k_is_the_share_of_sets_with_one_that_passes() -> None:
    for n in range(1, 9):
        for correct in range(n + 1):
            for k in range(1, n + 1):
                exact = 1 - comb(n - correct, k) / comb(n, k)
                assert pass_at_k(n, correct, k) == pytest.approx(exact, abs=1e-12)
    assert pass_at_k(100_000, 1, 10) == pytest.approx(1e-4)


@pytest.mark.parametrize(("n", "correct", "k"), [(3, 1, 4), (3, 1, 0), (3, 4, 1), (3, -1, 1), (0, 0, 1)])
def test_pass_at_k_of_too_few_programs_is_refused(n: int, correct: int, k: int) -> None:
    with pytest.raises(ValueError, match="programs"):
        pass_at_k(n, correct, k)
