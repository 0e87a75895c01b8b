"""What a function to write is, before it is put into words and tests.

A spec's key names operations and constants only, never the wording or the names, so the split (see
`sample.py`) is by what the function computes. Bodies follow one style a family: the docstring then
determines the body, which is what a very small model can learn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Inputs = Callable[[random.Random], tuple[Any, ...]]


@dataclass(frozen=True)
class Spec:
    """A function to write, before it is put into words and tests."""

    key: str
    name: str
    params: tuple[str, ...]
    doc: str
    body: tuple[str, ...]
    inputs: Inputs


@dataclass(frozen=True)
class Op:
    """One operation: its canonical code, its wording, its expression, and its constants."""

    code: str
    words: str
    expr: str
    constants: tuple[Any, ...] = ()
