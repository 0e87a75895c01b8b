"""A fixed question to a model, and a few numbers of its answer, to recognise it by later."""

from __future__ import annotations

from importlib.resources import files
from math import isfinite
from typing import Any

from eckart.model.configs import said
from eckart.model.probe import answer
from eckart.model.probe.question import Question, described, question_of, questions
from eckart.types import EckartError, Probe

__all__ = [
    "STANDALONE",
    "Question",
    "answered",
    "answers",
    "described",
    "differences",
    "question_of",
    "questions",
    "tensors",
    "tolerance",
]

TOLERANCE = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of a probed value, relative to the largest of its tensor, that another machine's
rounding explains, by the dtype that is computed in. On the machine that saved the folder it is 0, unless the
model was cast in memory (`.to(bfloat16)` rounds what is not saved too: the frequencies of rotary positions).
"""

_STANDALONE = """
import json, sys
import transformers
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
request = json.load(sys.stdin)
assert "eckart" not in sys.modules
auto = getattr(transformers, request["auto"])
model = auto.from_pretrained(request["folder"], trust_remote_code=True, dtype="auto")
print(json.dumps(ask(model, request["inputs"]) if request["inputs"] else {}))
"""
STANDALONE = files("eckart.model.probe").joinpath("answer.py").read_text() + _STANDALONE
"""`answer.ask` for a process without Eckart: JSON on standard input, the outputs as the last line."""


def tolerance(dtype: str) -> float:
    """What `TOLERANCE` says of a dtype; of any other, what it says of float32."""
    return TOLERANCE.get(dtype, TOLERANCE["float32"])


def tensors(question: Question, model: Any) -> dict[str, Any]:
    """The inputs of a question, on the model's device."""
    return answer.tensors(described(question), model)


def answers(model: Any, question: Probe) -> dict[str, list[float]]:
    """What the model answers; nothing where there is no question.

    Raises:
        EckartError: it does not take the question.
    """
    if question.unasked is not None:
        return {}
    try:
        return answer.ask(model, described(question.inputs))
    except Exception as error:  # of any architecture's own code, on what a file says
        raise EckartError(
            f"{type(model).__name__} does not take the saved question: {said(error)}"
        ) from error


def answered(model: Any, question: Probe) -> Probe:
    """The question with what the model answers to it now: numbers of all outputs that it had.

    Raises:
        EckartError: an answer is not finite, or an output is no longer there.
    """
    if question.unasked is not None:
        return question
    found = answers(model, question)
    outputs = {name: found.get(name, []) for name in question.outputs}
    if not all(values and all(map(isfinite, values)) for values in outputs.values()):
        raise EckartError(
            f"the compressed {type(model).__name__} answers with values that are not finite: "
            f"it overflows in {model.dtype}, as the dense one may; try another dtype"
        )
    return question.model_copy(update={"outputs": outputs})


def differences(found: dict[str, list[float]], saved: dict[str, list[float]]) -> dict[str, float]:
    """By output, the largest difference relative to its largest value; infinite where one is missing."""
    result = {}
    for name, values in saved.items():
        now = found.get(name, [])
        if len(now) != len(values):
            result[name] = float("inf")
            continue
        largest = max(map(abs, values)) or 1.0
        result[name] = max(abs(one - other) for one, other in zip(now, values, strict=True)) / largest
    return result
