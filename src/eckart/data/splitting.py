"""A part of the data that nothing is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

HELD_OUT = 8
"""One piece in so many is held out, where something is to be measured on what nothing was calibrated on."""

Piece = TypeVar("Piece")


def hold_out(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Texts or windows to calibrate on, and every eighth, which is held out."""
    kept = [piece for index, piece in enumerate(pieces) if index % HELD_OUT != HELD_OUT - 1]
    return kept, list(pieces[HELD_OUT - 1 :: HELD_OUT])
