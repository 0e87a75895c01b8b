"""The endless, seeded stream of samples for each skill and split."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from eckart.pocket.sample import SKILLS, SPLITS, Sample, split_of
from eckart.pocket.skills import functions, stories, word_problems

_DRAW: dict[str, Callable[[random.Random], Sample]] = {
    "math": word_problems.draw,
    "code": functions.draw,
    "stories": stories.draw,
}


def samples(skill: str, split: str, seed: int = 0) -> Iterator[Sample]:
    """Yield samples of one skill and split without end; the same seed gives the same stream.

    Samples are drawn from the whole space and kept when their key hashes into the asked split,
    so no seed can ever bring a test sample into training.
    """
    if skill not in SKILLS:
        raise ValueError(f"unknown skill {skill!r}; expected one of {', '.join(SKILLS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; expected one of {', '.join(SPLITS)}")
    # A string seeds through SHA-512, so streams of neighbouring seeds are unrelated.
    rng = random.Random(f"eckart-pocket|{skill}|{split}|{seed}")
    draw = _DRAW[skill]
    while True:
        sample = draw(rng)
        if split_of(skill, sample.key) == split:
            yield sample
