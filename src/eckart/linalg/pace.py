"""How fast this machine multiplies."""

from __future__ import annotations

import time
from functools import cache

import torch

SIZE, ROUNDS = 1024, 3
"""Of the product that is timed."""


@cache
def rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of a product of two large matrices on the CPU, here and now."""
    ones = torch.ones(SIZE, SIZE, dtype=dtype)
    # The first is slower than those after it.
    torch.mm(ones, ones)
    started = time.perf_counter()
    for _ in range(ROUNDS):
        torch.mm(ones, ones)
    return 2 * ROUNDS * SIZE**3 / (time.perf_counter() - started)
