"""Curves and a budget in, a rank for each target out. Numbers only: no torch, no layer names.

An answer is one rank per curve, `None` where the weight stays dense. Every allocator spends at most the
budget, and as much of it as whole ranks allow.
"""

from collections.abc import Callable, Sequence

from eckart.allocate.budget import Ranks, cost, largest_within, least
from eckart.allocate.drop import keep_best, keep_share
from eckart.allocate.energy import energy, ranks_at
from eckart.allocate.fit import fitted
from eckart.allocate.uniform import uniform
from eckart.allocate.waterfill import waterfill
from eckart.types import Curve

Allocator = Callable[[Sequence[Curve], int], Ranks]

ALLOCATORS: dict[str, Allocator] = {"uniform": uniform, "energy": energy, "waterfill": waterfill}

NEEDS_ERRORS = frozenset({"energy", "waterfill"})
"""Allocators that read `Curve.errors`, so that every spectrum must be known before the first cut."""

__all__ = [
    "ALLOCATORS",
    "NEEDS_ERRORS",
    "Allocator",
    "cost",
    "energy",
    "fitted",
    "keep_best",
    "keep_share",
    "largest_within",
    "least",
    "ranks_at",
    "uniform",
    "waterfill",
]
