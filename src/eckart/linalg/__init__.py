"""Tensors and an integer in, tensors out: metrics, the solver and the structures.

Nothing here knows a layer's name, a path, a device policy or a log.
"""

from eckart.linalg.metric import Side, relative_error
from eckart.linalg.solve import Decomposition, decompose
from eckart.linalg.structures import factorize, largest_paying_rank, parameters, reconstruct

__all__ = [
    "Decomposition",
    "Side",
    "decompose",
    "factorize",
    "largest_paying_rank",
    "parameters",
    "reconstruct",
    "relative_error",
]
