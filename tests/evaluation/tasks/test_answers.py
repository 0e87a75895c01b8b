"""Final answers: GSM8K's numbers and MATH's boxes, as references have them and as models write them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from eckart.data import read_texts
from eckart.evaluation.tasks.answers import final_number, last_box, require_answers, same_answer
from eckart.types import Text, UsageError

TASKS = Path(__file__).parents[4] / "shared" / "data" / "tasks"
real = pytest.mark.skipif(not TASKS.is_dir(), reason=f"no {TASKS}: the real data are not here")


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("It is 3 + 4 = 7.\n#### 7", "7"),
        ("#### $1,234.50.", "1234.5"),
        ("####18", "18"),
        ("#### -3", "-3"),
        ("#### -$3", "-3"),
        ("#### $-3", "-3"),
        ("#### \u22123", "-3"),
        ("#### 18 eggs\n\nQuestion: 5 + 5?\n#### 10", "18"),
        ("#### The answer is 5 apples", "5"),
        ("#### x\nso 7 it is", "7"),
        ("first 3, then 12,000,", "12000"),
        ("so she has $5.00.", "5"),
        ("16-3-4", "4"),
        ("it is -4 degrees", "-4"),
        ("1,2,3", "3"),
        (".50", "0.5"),
        ("0.0", "0"),
        ("-0", "0"),
        ("007", "7"),
        ("no number", None),
        ("#### ", None),
        ("", None),
    ],
)
def test_the_final_number_of_a_text(text: str, number: str | None) -> None:
    assert final_number(text) == number


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"so $\boxed{2}$.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{1} and then \boxed{\sqrt{\frac{a}{b}}}.", r"\sqrt{\frac{a}{b}}"),
        (r"first \boxed 3$, then \boxed{4}", "4"),
        (r"first \boxed{3}, then $\boxed 4$.", "4"),
        (r"\fbox{9}", "9"),
        (r"\boxed{never closed", None),
        (r"\boxed", None),
        ("4", None),
    ],
)
def test_the_last_box_of_a_text(text: str, box: str | None) -> None:
    assert last_box(text) == box


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (r"\frac{1}{2}", r"\dfrac12"),
        ("1/2", r"\frac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        ("x=5", "5"),
        ("10,000", r"10{,}000"),
        ("10000", r"10,\!000"),
        (r"\$5", "5"),
        ("50\\%", "50"),
        (r"90^\circ", "90"),
        ("(1, 2)", "(1,2)"),
        (r"\left(1, 2\right)", "(1,2)"),
        (r"\sqrt3", r"\sqrt{3}"),
        ("5.", "5"),
        ("$5$", "5"),
        (r"5\text{ cm}", "5"),
        (".5", "0.5"),
    ],
)
def test_one_answer_may_be_spelt_in_several_ways(one: str, other: str) -> None:
    assert same_answer(one, other)
    assert same_answer(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("1", "2"),
        ("(1,2)", "(2,1)"),
        ("(1,200)", "1200"),
        ("-5", "5"),
        (r"\frac{1}{2}", r"\frac{2}{1}"),
        ("", "1"),
    ],
)
def test_other_answers_are_wrong(one: str, other: str) -> None:
    assert not same_answer(one, other)
    assert not same_answer(other, one)


def test_a_reference_without_an_answer_is_named() -> None:
    texts = [Text("a", "#### 1"), Text("b", "I do not know")]
    with pytest.raises(UsageError, match=r"x.jsonl, text 2: no number in what is right \('I do not know'\)"):
        require_answers("x.jsonl", texts, final_number)
    with pytest.raises(UsageError, match=r"text 1: no \\boxed"):
        require_answers("x.jsonl", texts, last_box)


@real
@pytest.mark.parametrize("name", ["gsm8k_test.jsonl", "gsm8k_train.jsonl"])
def test_every_reference_of_gsm8k_gives_its_own_number(name: str) -> None:
    texts = read_texts(str(TASKS / name))
    assert len(texts) == {"gsm8k_test.jsonl": 1319, "gsm8k_train.jsonl": 7473}[name]
    for text in texts:
        own = text.completion.rpartition("#### ")[2].replace(",", "").replace("$", "").strip()
        assert final_number(text.completion) == own


@real
def test_every_solution_of_math_is_right_by_itself() -> None:
    texts = read_texts(str(TASKS / "math_test.json"))
    assert len(texts) == 5000
    boxes = [last_box(text.completion) for text in texts]
    assert all(box and same_answer(box, box) for box in boxes)
    # And few by another one's: those that happen to have the same answer.
    same = sum(same_answer(one or "", other or "") for one, other in pairwise(boxes))
    assert same < 150
