"""Math word problems with worked steps, written from our own templates."""

from __future__ import annotations

import random
from collections.abc import Callable

from eckart.pocket.sample import Sample
from eckart.pocket.skills.counting_problems import chain, compare, groups, seats, share, total
from eckart.pocket.skills.measuring_problems import ages, rate, shop, weeks
from eckart.pocket.skills.problem import Problem

# Kinds with more shapes are named more than once, to be drawn more often.
_KINDS: list[Callable[[random.Random], Problem]] = [
    chain, chain, chain, groups, share, compare, compare,
    shop, shop, rate, rate, ages, seats, weeks, total,
]  # fmt: skip


def draw(rng: random.Random) -> Sample:
    """Draw one word problem; its completion is the worked steps and a last line `#### n`."""
    problem = rng.choice(_KINDS)(rng)
    completion = "\n".join([*problem.steps, f"#### {problem.answer}"]) + "\n"
    return Sample("math", problem.key, problem.question + "\n", completion, answer=str(problem.answer))
