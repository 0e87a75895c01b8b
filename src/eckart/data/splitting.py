"""A part of the data that nothing is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from eckart.types import Text

HELD_OUT = 8
"""One piece in so many is held out, where something is to be measured on what nothing was calibrated on."""

MOST_TEXTS, MOST_CHARACTERS = 256, 2**16
"""That are set apart from a training at most: more tell no more, and would be missed there."""

Piece = TypeVar("Piece")


def hold_out(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Texts or windows to calibrate on, and every eighth, which is held out."""
    kept = [piece for index, piece in enumerate(pieces) if index % HELD_OUT != HELD_OUT - 1]
    return kept, list(pieces[HELD_OUT - 1 :: HELD_OUT])


def set_apart(texts: Sequence[Text]) -> tuple[list[Text], list[Text]]:
    """Texts to learn from, and some that are not: every eighth or fewer, of a running text its end."""
    if len(texts) == 1 and not texts[0].prompt:
        words = texts[0].completion
        at = len(words) - min(len(words) // HELD_OUT, MOST_CHARACTERS)
        at = words.find(" ", at)
        if at < 0:
            return list(texts), []
        return [replace(texts[0], completion=words[:at])], [replace(texts[0], completion=words[at:].lstrip())]
    step = max(HELD_OUT, -(-len(texts) // MOST_TEXTS))
    return [text for at, text in enumerate(texts) if at % step != step - 1], list(texts[step - 1 :: step])
