"""Data as text, how much of it is taken, and telling somebody how far the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Passes `items` through while telling somebody: `track(items, description, total)`."""

SAMPLES = 512
"""Windows of the data to calibrate on, unless told otherwise or the data has fewer."""

SAMPLE_TOKENS = 32768
"""Where so many windows have fewer tokens than this, more are taken: sentences are short."""

MAX_LENGTH = 512
"""Tokens in a window at most, unless told otherwise."""


@dataclass(frozen=True)
class Text:
    """One piece of data: running text, or a prompt with its completion."""

    prompt: str
    completion: str

    @property
    def text(self) -> str:
        return self.prompt + self.completion


def silent(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """A `Track` that tells nobody."""
    return items
