"""How long `compress` would take here: what there is to multiply, by how fast this machine multiplies."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eckart import linalg, recipes
from eckart.calibrate import GRADIENT_KINDS
from eckart.recipes import making
from eckart.types import SAMPLE_TOKENS, Recipe, Target

EIGEN = 7
"""An eigenproblem takes so many times as long as a product of the same size."""
BACK = 3
"""A pass forward and back, in passes forward."""
CUTS = 6
"""That `auto` measures."""


def seconds(targets: Sequence[Target], parameters: int, recipe: Recipe) -> float:
    """An estimate: passes over the data, moments, decompositions. Reading and writing are not in it.

    Args:
        parameters: of the whole model.
    """
    kinds = recipes.find_metric(recipe.metric).moments
    products = sum(2.0 * solve_operations(target) for target in targets)
    if recipe.recovery == "refit":
        products *= 2
    passes = 0.0
    summed = 0
    if making.needs_data(recipe):
        passes = BACK if kinds & GRADIENT_KINDS else 1
        summed = sum(target.in_features**2 for target in targets)
        if kinds & GRADIENT_KINDS:
            summed += sum(target.out_features**2 for target in targets)
        if recipe.recovery == "refit":
            passes, summed = passes + 2, 3 * summed
    measured = 0.0
    if making.needs_held_out(recipe):
        measured = CUTS * sum(
            2.0 * t.out_features * t.in_features * min(t.out_features, t.in_features) for t in targets
        )
    single, double = linalg.rate(torch.float32), linalg.rate(torch.float64)
    return (2 * SAMPLE_TOKENS * (passes * parameters + summed) + measured) / single + products / double


def solve_operations(target: Target) -> int:
    """Multiplications to solve one target: weighed, multiplied with itself, its eigenvectors found."""
    small = min(target.out_features, target.in_features)
    weighed = target.out_features * target.in_features**2 + target.in_features * small**2
    return weighed + EIGEN * small**3
