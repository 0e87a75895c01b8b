"""Problems with one right answer at the end: GSM8K's number, MATH's box."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

from eckart.evaluation.asking import Request, ask, counts
from eckart.evaluation.score import Score
from eckart.types import Text, UsageError

MARK = "####"
NUMBER = re.compile(
    r"(?P<minus>(?<![\w)\]])[-\u2212])?(?:\$\s?(?P<inner>[-\u2212])?)?"
    r"(?P<digits>[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
)
THOUSANDS = re.compile(r"-?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]+)?")
NEEDS_HARNESS = 'the harness\'s grader of MATH is not here: pip install "eckart[eval]"'


def gsm8k(request: Request) -> Score:
    """Exact match of the final number, as GSM8K's references end in it behind `####`."""
    return _matched(request, lambda one, other: one == other, ("Question:",), 320)


def math(request: Request) -> Score:
    """Exact match of the last box, by the harness's own equivalence for MATH and thousands without commas."""
    return _matched(request, same_answer, ("Problem:",), 512)


def _matched(
    request: Request,
    same: Callable[[str, str], bool],
    stop: tuple[str, ...],
    max_new_tokens: int,
) -> Score:
    final = FINAL[request.task]
    references = [final(text.completion) for text in request.material]

    def grade(index: int, written: str) -> dict[str, object]:
        answer, reference = final(written), references[index]
        assert reference is not None
        return {
            "answer": answer,
            "reference": reference,
            "right": answer is not None and same(answer, reference),
        }

    prompts = [text.prompt for text in request.material]
    answers = ask(request, prompts, grade, stop=stop, max_new_tokens=max_new_tokens)
    right = sum(answer["right"] for answer in answers)
    return Score(request.task, "exact_match", right / len(answers), {"right": right, **counts(answers)})


def require_answers(source: str, texts: Sequence[Text], final: Callable[[str], str | None]) -> None:
    """Raises UsageError where a completion has no answer to compare with."""
    for number, text in enumerate(texts, 1):
        if final(text.completion) is None:
            what = "number" if final is final_number else r"\boxed{…}"
            raise UsageError(
                f"{source}, text {number}: no {what} in what is right ({text.completion.strip()[-60:]!r})"
            )


def final_number(text: str) -> str | None:
    """The number behind the first `####` that has one in its line, else the last in the text; `None` without.

    Commas, dollar signs, a period at the end and zeros that change nothing are left out: `$1,234.50.` is
    `1234.5`.
    """
    for tail in text.split(MARK)[1:]:
        if found := NUMBER.search(tail.partition("\n")[0]):
            return _plain(found)
    numbers = list(NUMBER.finditer(text))
    return _plain(numbers[-1]) if numbers else None


def _plain(found: re.Match[str]) -> str:
    value = Decimal(found["digits"].replace(",", ""))
    if (found["minus"] or found["inner"]) and value:
        value = -value
    words = f"{value:f}"
    return words.rstrip("0").rstrip(".") if "." in words else words


def last_box(text: str) -> str | None:
    r"""What is in the last `\boxed{…}` or `\boxed …`, braces within it matched; `None` without one."""
    try:
        from lm_eval.tasks.hendrycks_math.utils import last_boxed_only_string, remove_boxed
    except ModuleNotFoundError:
        raise UsageError(NEEDS_HARNESS) from None
    # The harness goes by the form that it finds anywhere, whose last need not be the last of all.
    start = max(text.rfind(r"\boxed{"), text.rfind(r"\boxed "), text.rfind(r"\fbox{"))
    if start < 0:
        return None
    tail = text[start:].replace(r"\fbox{", r"\boxed{", 1)
    try:
        box = last_boxed_only_string(tail)
        inside: str | None = None if box is None else remove_boxed(box)
    except (AssertionError, IndexError):
        return None
    return inside


def same_answer(one: str, other: str) -> bool:
    """Whether two answers of MATH say the same, by the harness; it leaves commas between thousands alone."""
    try:
        from lm_eval.tasks.hendrycks_math.utils import is_equiv
    except ModuleNotFoundError:
        raise UsageError(NEEDS_HARNESS) from None
    return bool(is_equiv(_tidy(one), _tidy(other)))


def _tidy(answer: str) -> str:
    answer = answer.strip().removesuffix(".").strip().removeprefix("$").removesuffix("$").strip()
    answer = answer.removeprefix(r"\$").replace("{,}", ",").replace(r"\!", "").replace(", ", ",").strip()
    return answer.replace(",", "") if THOUSANDS.fullmatch(answer) else answer


FINAL: dict[str, Callable[[str], str | None]] = {"gsm8k": final_number, "math": last_box}
"""Of each of these tasks, what is compared of a text."""
