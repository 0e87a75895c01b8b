"""The pocket model's three skills on held-out samples: solving, coding, telling."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from eckart.evaluation.generation import generate
from eckart.evaluation.score import Score
from eckart.evaluation.tasks.perplexity import perplexity
from eckart.pocket import Sample, samples
from eckart.pocket.grading import grade_code, grade_math
from eckart.types import Text, Track, silent

BATCH = 100
"""The prompts are short, and the model is small."""
SPARE_TOKENS = 16
"""Beyond the longest reference: room for another wording, not for a broken model to ramble."""


def pocket_math(model: Any, tokenizer: Any, limit: int = 200, track: Track = silent) -> Score:
    """Exact match of the number behind `####` on held-out word problems, greedy."""
    problems = list(islice(samples("math", "test"), limit))
    written = _answers(model, tokenizer, problems, track)
    right = sum(grade_math(text, problem) for text, problem in zip(written, problems, strict=True))
    return Score("pocket-math", "exact_match", right / len(problems), {"samples": len(problems)})


def pocket_code(model: Any, tokenizer: Any, limit: int = 200, track: Track = silent) -> Score:
    """pass@1 on held-out functions, greedy: a function passes if all its tests do.

    Only code on a small whitelist of syntax, builtins and methods is run at all, in a process of its
    own with limits on time and memory.
    """
    functions = list(islice(samples("code", "test"), limit))
    written = _answers(model, tokenizer, functions, track)
    right = sum(grade_code(written, functions))
    return Score("pocket-code", "pass@1", right / len(functions), {"samples": len(functions)})


def pocket_stories(model: Any, tokenizer: Any, limit: int = 200, track: Track = silent) -> Score:
    """Perplexity of held-out stories."""
    told = [Text(story.prompt, story.completion) for story in islice(samples("stories", "test"), limit)]
    return perplexity(model, tokenizer, told, track=track, task="pocket-stories")


def _answers(model: Any, tokenizer: Any, asked: Sequence[Sample], track: Track) -> list[str]:
    references = tokenizer([sample.completion for sample in asked])["input_ids"]
    room = max(len(ids) for ids in references) + SPARE_TOKENS
    return generate(model, tokenizer, [sample.prompt for sample in asked], room, track, BATCH)
