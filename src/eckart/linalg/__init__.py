"""Tensors and an integer in, tensors out: metrics, solvers and refits.

Nothing here knows a layer's name, a path, a device policy or a log.
"""

from eckart.linalg.eigen import Solver
from eckart.linalg.metric import Side, relative_error, weighted_norm
from eckart.linalg.pace import rate
from eckart.linalg.problem import Problem
from eckart.linalg.products import has_products, products_of, wide_products
from eckart.linalg.quantize import Quantized, quantize, quantize_factors, quantize_weight
from eckart.linalg.refit import follow, refit_left, regress
from eckart.linalg.rounding import rounded_at_random
from eckart.linalg.solve import Decomposition, Factors, decompose, decompose_many
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

__all__ = [
    "Decomposition",
    "Factors",
    "Problem",
    "Quantized",
    "Side",
    "Solver",
    "covers",
    "decompose",
    "decompose_many",
    "effective_rank",
    "energy_rank",
    "follow",
    "has_products",
    "leading_spectrum",
    "output_cosines",
    "products_of",
    "quantize",
    "quantize_factors",
    "quantize_weight",
    "random_cosines",
    "rate",
    "refit_left",
    "regress",
    "relative_error",
    "rounded_at_random",
    "spectrum_of",
    "stable_rank",
    "weighted_norm",
    "wide_products",
]
