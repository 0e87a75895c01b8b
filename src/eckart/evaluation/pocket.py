"""The pocket model's three skills on held-out samples: solving, coding, telling."""

from __future__ import annotations

from itertools import islice
from typing import Any

from eckart.evaluation.generation import generate
from eckart.evaluation.perplexity import perplexity
from eckart.evaluation.score import Score
from eckart.pocket import samples
from eckart.pocket.grading import grade_code, grade_math
from eckart.types import Text, Track, silent

NEW_TOKENS = 200
"""Longer than any completion of the generator."""


def pocket_math(model: Any, tokenizer: Any, limit: int = 200, track: Track = silent) -> Score:
    """Exact match of the number behind `####` on held-out word problems, greedy."""
    problems = list(islice(samples("math", "test"), limit))
    written = generate(model, tokenizer, [problem.prompt for problem in problems], NEW_TOKENS, track)
    right = sum(grade_math(text, problem) for text, problem in zip(written, problems, strict=True))
    return Score("pocket-math", "exact_match", right / len(problems), {"samples": len(problems)})


def pocket_code(model: Any, tokenizer: Any, limit: int = 200, track: Track = silent) -> Score:
    """pass@1 on held-out functions, greedy: a function passes if all its tests do.

    Only code on a small whitelist of syntax, builtins and methods is run at all, in a process of its
    own with limits on time and memory.
    """
    functions = list(islice(samples("code", "test"), limit))
    written = generate(model, tokenizer, [function.prompt for function in functions], NEW_TOKENS, track)
    right = sum(grade_code(written, functions))
    return Score("pocket-code", "pass@1", right / len(functions), {"samples": len(functions)})


def pocket_stories(model: Any, tokenizer: Any, limit: int = 200, track: Track = silent) -> Score:
    """Perplexity of held-out stories."""
    told = [Text(story.prompt, story.completion) for story in islice(samples("stories", "test"), limit)]
    return perplexity(model, tokenizer, told, track=track, task="pocket-stories")
