"""The built-in data: endless, made on the spot, in a train and a test split."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from eckart.types import Text, UsageError

POCKET_TEXTS = 1000


def is_built_in(source: str) -> bool:
    """Whether a name stands for data that Eckart makes itself, which have splits, and not for a file."""
    return source.partition("-")[0] == "pocket" and not Path(source).exists()


def pocket_texts(source: str, split: str, count: int = POCKET_TEXTS) -> list[Text]:
    """The first texts of `pocket`, its skills in turn, or of one of them, as `pocket-math`.

    Args:
        count: how many; of `pocket` the largest multiple of its skills that is not above it.

    Raises:
        UsageError: the pocket has no such skill.
    """
    # Whoever reads no data of the pocket does not wait for its generators.
    from eckart.pocket import SKILLS, samples

    skill = source.removeprefix("pocket").removeprefix("-")
    if skill and skill not in SKILLS:
        raise UsageError(
            f"{source}: the pocket's data are pocket, {', '.join(f'pocket-{s}' for s in SKILLS)}"
        )
    skills = [skill] if skill else list(SKILLS)
    streams = [samples(name, split) for name in skills]
    rows = islice(zip(*streams, strict=False), count // len(skills))
    return [Text(sample.prompt, sample.completion) for row in rows for sample in row]
