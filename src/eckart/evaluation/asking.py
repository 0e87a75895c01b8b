"""Prompts to a model, its answers graded and kept: what all tasks share in which a model writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart.evaluation.generation import BATCH, Decoding, write
from eckart.evaluation.keeping import Kept
from eckart.model.text import usable_length
from eckart.types import Text, Track, UsageError, silent

BETWEEN = "\n\n"
"""Stands between worked examples and before what is asked."""

Grade = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How a task is asked. Here are the defaults; each task says which of these it has a use for.

    Attributes:
        limit: texts, pairs or samples to use at most; default all, 200 of a pocket skill.
        max_length: tokens at once at most; default 512 where text is read, and what the model can take where
            it writes.
        max_new_tokens: that an answer has at most; default the task's, and half of what a small model takes.
        batch: prompts at once.
        examples: worked ones, put in front of each prompt.
        shots: how many the harness puts in front, by its own choice.
        temperature: 0 takes the likeliest token.
        samples: programs to write for each problem.
        k: the numbers of tries in pass@k, the first for the score.
        seed: of the sampling.
        seconds: that a program may run.
        include: a folder with more of the harness's tasks.
        allow_code_execution: whether programs that the model wrote may be run.
    """

    limit: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    batch: int = BATCH
    examples: tuple[Text, ...] = ()
    shots: int | None = None
    temperature: float = 0.0
    samples: int = 1
    k: tuple[int, ...] = (1,)
    seed: int = 0
    seconds: float = 10.0
    include: str | None = None
    allow_code_execution: bool = False


@dataclass
class Request:
    """One task on one model: what a task function is given.

    Attributes:
        task: its name, as asked for.
        model, tokenizer: loaded, in evaluation mode.
        material: what the task reads.
        kept: where answers go.
        against: the dense model, where the task compares with one.
    """

    task: str
    model: Any
    tokenizer: Any
    material: list[Any] = field(default_factory=list)
    settings: Settings = Settings()
    kept: Kept = field(default_factory=Kept)
    track: Track = silent
    against: Any = None


def ask(
    request: Request,
    prompts: Sequence[str],
    grade: Callable[[int, str], Grade],
    *,
    stop: tuple[str, ...],
    max_new_tokens: int,
) -> list[dict[str, Any]]:
    """What the model writes behind each prompt, graded, in their order; what is kept is not asked again.

    Args:
        grade: from a prompt's place and the answer to what is to be kept of it.
        stop: the strings that end an answer.
        max_new_tokens: where the request has none of its own.
    """
    settings = request.settings
    longest = usable_length(request.model, request.tokenizer, settings.max_length or sys.maxsize)
    fresh = settings.max_new_tokens or max(1, min(max_new_tokens, longest // 2))
    pieces = write(
        request.model,
        request.tokenizer,
        [shown(prompt, settings.examples) for prompt in prompts],
        Decoding(fresh, stop, settings.temperature, settings.seed, longest, settings.batch),
        done=request.kept.rows,
        track=request.track,
    )
    for piece in pieces:
        request.kept.add(
            [
                {
                    "index": one.index,
                    "prompt": prompts[one.index],
                    "written": one.text,
                    "ended": one.ended,
                    "cut": one.cut,
                    **grade(one.index, one.text),
                }
                for one in piece
            ]
        )
    return request.kept.all()


def shown(prompt: str, examples: Sequence[Text]) -> str:
    """A prompt behind worked examples."""
    return "".join(f"{example.text.rstrip()}{BETWEEN}" for example in examples) + prompt


def counts(answers: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many answers there are, how many ran out of tokens, and how many prompts lost their beginning."""
    return {
        "samples": len(answers),
        "unfinished": sum(not answer["ended"] for answer in answers),
        "cut_prompts": sum(answer["cut"] for answer in answers),
    }


def require_prompts(source: str, texts: Sequence[Text], task: str) -> None:
    """Raises UsageError where a text asks nothing, as plain text does not."""
    for number, text in enumerate(texts, 1):
        if not (text.prompt.strip() and text.completion.strip()):
            raise UsageError(
                f"{source}, text {number}: task {task} needs a prompt and what is right behind it; "
                "name the fields with --fields PROMPT,COMPLETION"
            )
