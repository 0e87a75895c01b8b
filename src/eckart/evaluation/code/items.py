"""Rows of HumanEval and MBPP into what a model is asked, and what it wrote into a whole program."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eckart.types import UsageError

# Below a blank line: in a fenced answer, `def` stands right below the fence and is the answer itself.
_HUMANEVAL_STOP = ("\n\ndef ", "\n\nclass ", "\n\n#", "\nif __name__", "\nprint(", "\nassert ", "\n```\n")
_MBPP_STOP = ('\n"""', "\nassert ", "\nprint(", "\nif __name__", "\n```\n")
_AFTER_A_FUNCTION = ("\nassert ", "\nprint(", "\nif __name__")

_FENCE = re.compile(r"^[ \t]*```.*$\n?", re.MULTILINE)
_CODE = re.compile(r"^(?:[ \t]+\S|(?:async )?def |class |import |from \S+ import )", re.MULTILINE)


@dataclass(frozen=True)
class Item:
    """One task.

    Attributes:
        name: as the data set calls it.
        prompt: what the model continues.
        stop: where any of these was written, the model need not go on.
        program: what was written into a Python program that runs to its end if it is right.
    """

    name: str
    prompt: str
    stop: tuple[str, ...]
    program: Callable[[str], str]


def humaneval_items(rows: list[dict[str, Any]]) -> list[Item]:
    """HumanEval (Chen et al. 2021): the model continues a signature with a docstring.

    Rows have `task_id`, `prompt`, `test`, `entry_point`. The function ends at the first line that is not
    indented. A model may also write the whole function again, or put it into a fence; one that imports
    first inside the fence is stopped too early, as it is by the stop strings that others use.

    Raises:
        UsageError: a row without one of the fields.
    """
    return [_humaneval(row, number) for number, row in enumerate(rows, 1)]


def mbpp_items(rows: list[dict[str, Any]]) -> list[Item]:
    """MBPP (Austin et al. 2021, arXiv 2108.07732): the model writes code below a task and its asserts.

    Rows have `task_id`, `text`, `test_list`, and may have `test_setup_code`, which runs between the code
    and the asserts since it uses the code's classes. The prompt is as training on such rows sees it: no
    examples unless the caller puts them in front. `challenge_test_list` is not used, as in the paper's
    figures.

    Raises:
        UsageError: a row without one of the fields.
    """
    return [_mbpp(row, number) for number, row in enumerate(rows, 1)]


def _humaneval(row: dict[str, Any], number: int) -> Item:
    prompt, test, entry = (_text(row, field, number) for field in ("prompt", "test", "entry_point"))

    def program(written: str) -> str:
        code = _code(written)
        # The prompt alone is a function with a docstring for a body: defined again, it is replaced,
        # and what the prompt imports or defines besides stays.
        again = re.match(rf"\s*^(?![ \t]).*^def {re.escape(entry)}\b", code, re.MULTILINE | re.DOTALL)
        body = "\n\n" + _before(code, _AFTER_A_FUNCTION) if again else _indented(code)
        return f"{prompt}{body}\n{test}\ncheck({entry})\n"

    return Item(str(_field(row, "task_id", number)), prompt, _HUMANEVAL_STOP, program)


def _mbpp(row: dict[str, Any], number: int) -> Item:
    text, tests = _text(row, "text", number), _field(row, "test_list", number)
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise UsageError(f"row {number}: test_list is not a list of asserts")
    asserts = "\n".join(_newlines(test) for test in tests)
    setup = _newlines(str(row.get("test_setup_code") or ""))

    def program(written: str) -> str:
        return f"{_before(_code(written), _MBPP_STOP)}\n{setup}\n{asserts}\n"

    return Item(
        f"MBPP/{_field(row, 'task_id', number)}", f'"""\n{text}\n{asserts}\n"""\n', _MBPP_STOP, program
    )


def _field(row: dict[str, Any], field: str, number: int) -> Any:
    if row.get(field) is None:
        raise UsageError(f"row {number} has no field {field}")
    return row[field]


def _text(row: dict[str, Any], field: str, number: int) -> str:
    value = _field(row, field, number)
    if not isinstance(value, str):
        raise UsageError(f"row {number}: {field} is not a text")
    return _newlines(value)


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n")


def _code(written: str) -> str:
    """The code of an answer: inside its first fence, or before it where code came first."""
    written = _newlines(written)
    fence = _FENCE.search(written)
    if fence is None:
        return written
    before, after = written[: fence.start()], written[fence.end() :]
    return before if _CODE.search(before) else _FENCE.split(after, 1)[0]


def _before(code: str, stops: tuple[str, ...]) -> str:
    return code[: min((at for stop in stops if (at := code.find(stop)) >= 0), default=len(code))]


def _indented(code: str) -> str:
    """The lines up to the first statement that is not indented."""
    lines = code.split("\n")
    ends = (at for at, line in enumerate(lines) if line and not line[0].isspace() and line[0] not in ")]}")
    return "\n".join(lines[: next(ends, len(lines))])
