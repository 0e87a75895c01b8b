"""How fast this machine multiplies."""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.nn.functional import linear

from eckart.linalg.products import wide_products

ROWS, WIDEST = 768, 1024
"""Of the product that is timed."""
SECONDS, ROUNDS = 0.1, 5
"""How long it is timed, or how often at most."""


@cache
def rate(dtype: torch.dtype, width: int = ROWS) -> float:
    """Floating-point operations a second of a linear layer on the CPU, here and now, as models run here.

    The least time of the rounds: what else runs here makes some of them longer.

    Args:
        width: of what it reads and says; narrow ones are slower.
    """
    width = min(width, WIDEST)
    rows, weight = torch.ones(ROWS, width, dtype=dtype), torch.ones(width, width, dtype=dtype)
    # The first is slower than those after it.
    with wide_products():
        linear(rows, weight)
        begun, least, rounds = time.perf_counter(), float("inf"), 0
        while rounds < ROUNDS and (not rounds or time.perf_counter() - begun < SECONDS):
            started = time.perf_counter()
            linear(rows, weight)
            least, rounds = min(least, time.perf_counter() - started), rounds + 1
    return 2 * ROWS * width**2 / least
