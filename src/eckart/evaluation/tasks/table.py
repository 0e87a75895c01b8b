"""The tasks: one table that says of each what it reads, what it takes and which function measures it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eckart.evaluation.asking import Request
from eckart.evaluation.score import Score
from eckart.evaluation.tasks.against import against
from eckart.evaluation.tasks.answers import gsm8k, math
from eckart.evaluation.tasks.harness import PREFIX, harness
from eckart.evaluation.tasks.perplexity import perplexity
from eckart.evaluation.tasks.pocket import pocket_code, pocket_math, pocket_stories
from eckart.evaluation.tasks.programs import humaneval, mbpp
from eckart.evaluation.tasks.stsb import stsb
from eckart.evaluation.tasks.summaries import pairs, samsum
from eckart.types import MAX_LENGTH

Reads = Literal["texts", "sentence pairs", "prompts", "problems", "nothing", "harness"]

POCKET_SAMPLES = 200


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: as it is asked for.
        reads: `texts`; `sentence pairs`; `prompts` with what is right behind them; rows of `problems` to be
            programmed; `nothing`, where it brings its own; or what the `harness` finds by name.
        metric: what its value is.
        run: measures it.
        options: which of the settings, fields and folders it has a use for, beyond those of every task.
    """

    name: str
    reads: Reads
    metric: str
    run: Callable[[Request], Score]
    options: frozenset[str] = frozenset()

    @property
    def needs_data(self) -> bool:
        return self.reads not in ("nothing", "harness")

    @property
    def writes(self) -> bool:
        """Whether only a model that writes text can do it; the others say themselves what they need."""
        return self.reads not in ("texts", "sentence pairs")


def _perplexity(request: Request) -> Score:
    if request.against is not None:
        return against(request)
    longest = request.settings.max_length or MAX_LENGTH
    limit = request.settings.limit
    return perplexity(request.model, request.tokenizer, request.material, longest, request.track, limit=limit)


def _stsb(request: Request) -> Score:
    longest = request.settings.max_length or MAX_LENGTH
    return stsb(request.model, request.tokenizer, request.material, longest, request.track)


def _skill(measure: Callable[..., Score]) -> Callable[[Request], Score]:
    def run(request: Request) -> Score:
        limit = request.settings.limit or POCKET_SAMPLES
        return measure(request.model, request.tokenizer, limit, request.track)

    return run


def _pocket(request: Request) -> Score:
    """The three skills; the value is the mean of those that are right or wrong."""
    skills = [skill.run(request) for skill in POCKET]
    details = {
        skill.task: {"metric": skill.metric, "value": skill.value, **skill.details} for skill in skills
    }
    right = [skill.value for skill in skills if skill.metric != "perplexity"]
    return Score("pocket", "mean of exact_match and pass@1", sum(right) / len(right), {"skills": details})


_WRITES = frozenset({"fields", "examples", "shots", "out", "max_new_tokens", "batch"})
_RUNS = frozenset({"k", "samples", "temperature", "seed", "allow_code_execution"})

POCKET = (
    Task("pocket-math", "nothing", "exact_match", _skill(pocket_math)),
    Task("pocket-code", "nothing", "pass@1", _skill(pocket_code)),
    Task("pocket-stories", "nothing", "perplexity", _skill(pocket_stories)),
)

TASKS = {
    task.name: task
    for task in (
        Task("perplexity", "texts", "perplexity", _perplexity, frozenset({"fields", "on", "against"})),
        Task("stsb", "sentence pairs", "spearman", _stsb),
        Task("gsm8k", "prompts", "exact_match", gsm8k, _WRITES),
        Task("math", "prompts", "exact_match", math, _WRITES),
        Task("samsum", "prompts", "rouge1", samsum, _WRITES),
        Task("pairs", "prompts", "rouge1", pairs, _WRITES),
        Task("humaneval", "problems", "pass@1", humaneval, (_WRITES | _RUNS) - {"fields"}),
        Task("mbpp", "problems", "pass@1", mbpp, (_WRITES | _RUNS) - {"fields"}),
        Task("pocket", "nothing", "mean of exact_match and pass@1", _pocket),
        *POCKET,
    )
}

HARNESS = Task(
    PREFIX + "NAME",
    "harness",
    "the task's first",
    harness,
    frozenset({"shots", "out", "batch", "include", "allow_code_execution"}),
)
"""Stands for every task of the harness."""


def find_task(name: str) -> Task | None:
    """The task of a name, `None` where there is none; whether the harness knows its own is not asked here."""
    return HARNESS if name.startswith(PREFIX) else TASKS.get(name)
