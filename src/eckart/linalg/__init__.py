"""Tensors and an integer in, tensors out: metrics, solvers, refits and the structures.

Nothing here knows a layer's name, a path, a device policy or a log.
"""

from eckart.linalg.eigen import Solver
from eckart.linalg.metric import Side, relative_error, weighted_norm
from eckart.linalg.pace import rate
from eckart.linalg.products import products_of
from eckart.linalg.quantize import Quantized, quantize, quantize_factors, quantize_weight
from eckart.linalg.refit import follow, refit_left, regress
from eckart.linalg.residual import quantize_with_factors
from eckart.linalg.solve import Decomposition, decompose, decompose_many
from eckart.linalg.spectrum import (
    covers,
    effective_rank,
    energy_rank,
    leading_spectrum,
    output_cosines,
    random_cosines,
    spectrum_of,
    stable_rank,
)
from eckart.linalg.structures import factorize, largest_paying_rank, parameters, reconstruct

__all__ = [
    "Decomposition",
    "Quantized",
    "Side",
    "Solver",
    "covers",
    "decompose",
    "decompose_many",
    "effective_rank",
    "energy_rank",
    "factorize",
    "follow",
    "largest_paying_rank",
    "leading_spectrum",
    "output_cosines",
    "parameters",
    "products_of",
    "quantize",
    "quantize_factors",
    "quantize_weight",
    "quantize_with_factors",
    "random_cosines",
    "rate",
    "reconstruct",
    "refit_left",
    "regress",
    "relative_error",
    "spectrum_of",
    "stable_rank",
    "weighted_norm",
]
