"""The graders: right answers pass, wrong ones fail, and hostile code fails alone."""

from __future__ import annotations

import pytest

from eckart.pocket import Sample
from eckart.pocket.grading import function_source, grade_code, grade_math, is_allowed

ADD = Sample(
    "code",
    "k",
    'def add_two(n):\n    """Add 2 to n."""\n',
    "    return n + 2\n",
    tests=("assert add_two(1) == 3", "assert add_two(-2) == 0"),
)
SUM = Sample("math", "k", "What is 3 + 4?\n", "3 + 4 = 7.\n#### 7\n", answer="7")


@pytest.mark.parametrize(
    ("completion", "right"),
    [
        ("#### 7\n", True),
        ("#### 7", True),
        ("#### 5\n#### 7\n", True),
        ("#### 7\n#### 5\n", False),
        ("#### 77\n", False),
        ("#### -7\n", False),
        ("#### 7 apples\n", False),
        ("7\n", False),
        ("#### \n", False),
        ("", False),
    ],
)
def test_math_takes_the_last_number_exactly(completion: str, right: bool) -> None:
    assert grade_math(completion, SUM) is right


def test_code_is_cut_at_the_first_top_level_line() -> None:
    source = function_source("    return n + 2\n\nprint(1)\n    x", ADD)
    assert source.rstrip().endswith("return n + 2")
    assert grade_code(["    return n + 2\nimport os\n"], [ADD]) == [True]


@pytest.mark.parametrize(
    "completion",
    [
        "    return n + 3\n",
        "    return n +\n",
        "",
        "    return m\n",
        "    raise ValueError\n",
        "return n + 2\n",
    ],
)
def test_wrong_code_fails(completion: str) -> None:
    assert grade_code([completion, ADD.completion], [ADD, ADD]) == [False, True]


@pytest.mark.parametrize(
    "body",
    [
        "    while True:\n        pass\n",
        "    return [0] * 10**10\n",
        "    return 'a' * 10**10\n",
        "    return 10**10**10\n",
        "    return add_two(n)\n",
        "    x = [n]\n    while True:\n        x = x + x\n",
        "    return sum(range(10**15))\n",
        "    return list(map(str, range(10**9)))\n",
        "    return " + "(" * 500 + "n" + ")" * 500 + "\n",
        "    return " + "-" * 3000 + "n\n",
    ],
)
def test_bombs_fail_alone(body: str) -> None:
    assert grade_code([ADD.completion, body, ADD.completion], [ADD] * 3) == [True, False, True]


@pytest.mark.parametrize(
    "body",
    [
        "    import os\n    return n + 2\n",
        "    return open('x')\n",
        "    return eval('n + 2')\n",
        "    exec('n = 1')\n    return n + 2\n",
        "    return n.__class__\n",
        "    return __import__('os')\n",
        "    return '{0.__class__}'.format(n)\n",
        "    return getattr(n, 'real')\n",
        "    return (lambda: n + 2)()\n",
        "    global sum\n    return n + 2\n",
        "    try:\n        return n + 2\n    except Exception:\n        pass\n",
        "    with n:\n        pass\n",
        "    def __inner():\n        return 1\n    return n + 2\n",
        "    return f'{n}'\n",
    ],
)
def test_code_outside_the_whitelist_is_not_run(body: str) -> None:
    assert not is_allowed(ADD.prompt + body)
    assert grade_code([body], [ADD]) == [False]


def test_one_function_cannot_change_the_next() -> None:
    # Redefining a builtin inside one job must not reach another.
    spoiler = "    sum = 3\n    return n + 2\n"
    user = Sample("code", "k", "def total(a):\n", "    return sum(a)\n", tests=("assert total([1, 2]) == 3",))
    assert grade_code([spoiler, user.completion], [ADD, user]) == [True, True]
