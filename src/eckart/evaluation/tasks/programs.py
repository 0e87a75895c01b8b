"""HumanEval and MBPP: programs that the model writes are run against their tests."""

from __future__ import annotations

from typing import Any

from eckart.evaluation.asking import Request, ask, counts
from eckart.evaluation.score import Score


def humaneval(request: Request) -> Score:
    """pass@k of functions below their signatures."""
    return _passed(request, 512)


def mbpp(request: Request) -> Score:
    """pass@k of functions as a sentence and three asserts ask for them."""
    return _passed(request, 512)


def _passed(request: Request, max_new_tokens: int) -> Score:
    """Writes `samples` programs for each item, runs them, and says how likely one of k is right."""
    from eckart.evaluation import code

    settings, items = request.settings, request.material
    code.require_permission(settings.allow_code_execution)
    each = settings.samples

    def name(index: int, written: str) -> dict[str, Any]:
        return {"name": items[index // each].name}

    prompts = [item.prompt for item in items for _ in range(each)]
    answers = ask(request, prompts, name, stop=items[0].stop, max_new_tokens=max_new_tokens)
    outcomes = code.run_programs(
        [items[answer["index"] // each].program(answer["written"]) for answer in answers],
        seconds=settings.seconds,
        track=request.track,
    )
    for answer, outcome in zip(answers, outcomes, strict=True):
        answer |= {"right": outcome.passed, "why": outcome.why}
    request.kept.rows = {answer["index"]: answer for answer in answers}
    right = [
        sum(answer["right"] for answer in answers[at : at + each]) for at in range(0, len(answers), each)
    ]
    rates = {
        f"pass@{k}": sum(code.pass_at_k(each, count, k) for count in right) / len(items) for k in settings.k
    }
    first = f"pass@{settings.k[0]}"
    details: dict[str, Any] = {**rates, "problems": len(items), "right": sum(right), **counts(answers)}
    if settings.temperature:
        details["temperature"] = settings.temperature
    return Score(request.task, first, rates[first], {**details, "protection": code.protection()})
