"""How long `compress` would take here: what there is to multiply, by how fast this machine multiplies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from eckart import linalg, recipes
from eckart.calibrate import GRADIENT_KINDS
from eckart.evaluation import speed
from eckart.recipes import making
from eckart.recipes.efforts import Effort
from eckart.types import SAMPLE_TOKENS, Recipe, Target

EIGEN = 14
"""An eigenproblem takes so many times as long as a product of the same size."""
ROUNDING = 8
"""Rounding in a metric, column by column, takes so many times as long as a product of the same size."""
TURNS = 4
"""Times as long as the draft of it that tells what it loses."""
BACK = 2
"""A pass back, in passes forward."""
TRAIN = 2
"""A pass back that weights learn from too, in passes forward."""
MOST_PASSES = 8
REFIT_WORK = 10**12
"""Entries of all targets times tokens, up to which a refit comes before what is trained."""
FITTED = 5
"""Passes that a refit takes: of the dense model one, of the cut one a part for each input space."""
BETWEEN = 192
"""Of layers of this width what is done to activations between products takes as long as the products."""
STARTING = 1.5
"""Seconds to read, to ask the model before and after, and to write: of a small model most of it."""
LISTENING = 1.0
"""Seconds more where there is data, which is read, made tokens of, and measured on at the end."""


@dataclass(frozen=True)
class Reading:
    """Tokens of the data by what they are for; those that are there by default, unless some are known.

    Attributes:
        calibrating: that moments are summed over.
        fitting: that a refit is fitted to.
        held: that cuts are measured on.
    """

    calibrating: int = SAMPLE_TOKENS
    fitting: int = SAMPLE_TOKENS
    held: int = SAMPLE_TOKENS // 4


def seconds(
    targets: Sequence[Target], parameters: int, recipe: Recipe, dtype: torch.dtype, reading: Reading
) -> float:
    """An estimate: passes over the data, moments, decompositions.

    Args:
        parameters: that a token is multiplied with on its way through the model.
        dtype: that passes are computed in: without instructions for it a CPU is several times slower.
    """
    effort, reads = making.effort_of(recipe), making.needs_data(recipe)
    # One more than it tries floors: uniform sizes.
    cuts = 1 + len(effort.floors)
    kinds = recipes.find_metric(recipe.metric).moments
    products = sum(2.0 * solve_operations(target) for target in targets)
    refits = reads and refit_comes(recipe, targets, reading.calibrating)
    passed = summed = cut = 0.0
    if reads:
        passed += reading.calibrating
        summed += reading.calibrating * sum(target.in_features**2 for target in targets)
    if kinds & GRADIENT_KINDS:
        differentiated = min(reading.calibrating, effort.gradient_tokens)
        passed += BACK * differentiated
        summed += differentiated * sum(target.out_features**2 for target in targets)
    if refits:
        products *= 2
        passed += FITTED * reading.fitting
        summed += 2 * reading.fitting * sum(target.in_features**2 for target in targets)
    imitated = making.imitates(recipe) and reads
    if making.needs_held_out(recipe):
        passed += (1 + cuts) * reading.held
        cut = cuts * sum(
            2.0 * t.out_features * t.in_features * min(t.out_features, t.in_features) for t in targets
        )
    elif reads:
        passed += 2 * reading.held
    width = round(median(target.in_features for target in targets))
    # Its answers once, and each token of the training forward and, with the weights, back.
    read = imitated_tokens(reading.calibrating, effort)
    learned = read * (1 + TRAIN) + min(read, reading.calibrating) if imitated else 0
    if recipe.quantize is not None and recipes.find_metric(recipe.metric).right == "second-moment":
        drafts = sum(bits is not None for bits in recipe.bits) if len(recipe.bits) > 1 else 0
        multiplied = sum(2.0 * target.out_features * target.in_features**2 for target in targets)
        products += ROUNDING * (TURNS + drafts) * multiplied
    single, double = linalg.rate(torch.float32), linalg.rate(torch.float64)
    computed = 2 * passed * parameters / linalg.rate(dtype, width)
    computed += 2 * learned * parameters / linalg.rate(torch.float32, width)
    computed *= 1 + BETWEEN / max(width, 1)
    started = STARTING + (LISTENING if reads else 0.0)
    return started + computed + (2 * summed + cut) / single + products / double


def by_effort(
    targets: Sequence[Target], model: Any, recipe: Recipe, dtype: torch.dtype, reading: Reading
) -> dict[str, float]:
    """An estimate for each effort; of a recipe that knows but one, for that.

    Args:
        model: may be on the meta device.
    """
    parameters = speed.passed_through(model)
    made = making.by_effort(recipe) or {recipe.effort: recipe}
    return {name: seconds(targets, parameters, each, dtype, reading) for name, each in made.items()}


def refit_comes(recipe: Recipe, targets: Sequence[Target], tokens: int) -> bool:
    """Whether a refit is asked for, and before imitation takes little time: later imitation does as much."""
    entries = sum(target.out_features * target.in_features for target in targets)
    return making.refits(recipe) and (not making.imitates(recipe) or entries * tokens <= REFIT_WORK)


def imitated_tokens(there: int, effort: Effort) -> int:
    """That are read while a cut model learns from the dense one: a few passes over what there is, at most."""
    return min(effort.imitated_tokens, MOST_PASSES * there)


def solve_operations(target: Target) -> int:
    """Multiplications to solve one target: weighed, multiplied with itself, its eigenvectors found."""
    small = min(target.out_features, target.in_features)
    weighed = target.out_features * target.in_features**2 + target.in_features * small**2
    return weighed + EIGEN * small**3
