"""Curves and a budget in, an option for each site out. Numbers only: no torch, no layer names.

An answer is one position per curve, of its options in the order of their costs; `None` where the weight stays
as it is. Of a curve of one structure the position is the size, as the rank of factors. Every allocator spends
at most the budget, and as much of it as whole sizes allow.
"""

from collections.abc import Callable, Sequence

from eckart.allocate.budget import Picks, cost, largest_within, least
from eckart.allocate.drop import keep_best, keep_share
from eckart.allocate.energy import at_energy, energy
from eckart.allocate.equal import equal
from eckart.allocate.fit import fitted
from eckart.allocate.uniform import uniform
from eckart.allocate.waterfill import waterfill
from eckart.types import Curve

Allocator = Callable[[Sequence[Curve], int], Picks]

ALLOCATORS: dict[str, Allocator] = {
    "uniform": uniform,
    "equal": equal,
    "energy": energy,
    "waterfill": waterfill,
}

NEEDS_ERRORS = frozenset({"energy", "waterfill"})
"""Allocators that read `Curve.errors`, so that every spectrum must be known before the first cut."""

__all__ = [
    "ALLOCATORS",
    "NEEDS_ERRORS",
    "Allocator",
    "at_energy",
    "cost",
    "energy",
    "equal",
    "fitted",
    "keep_best",
    "keep_share",
    "largest_within",
    "least",
    "uniform",
    "waterfill",
]
