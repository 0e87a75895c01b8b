"""Sizes to choose from, where none was asked for: what each would come to, and what it cost others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Literal

import numpy as np

from eckart.estimate.planned import Plan
from eckart.recipes import find_method
from eckart.types import Recipe, Shown

KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
DENSE = {"pocket": 1.335, "SmolLM2": 25.98}
"""Perplexities of the dense models: the pocket model of 2.6M parameters, and SmolLM2-135M-Instruct."""
EXPERIENCE: Mapping[str, Mapping[str, Mapping[float, float]]] = {
    # eckart compare pocket --methods … --keep 0.9,0.8,0.6,0.4 --of targets --data pocket --limit 300
    "pocket": {
        "svd": {0.9: 1.507, 0.8: 2.003, 0.6: 16.745, 0.4: 499.676},
        "asvd": {0.9: 1.481, 0.8: 1.935, 0.6: 15.351, 0.4: 449.428},
        "fwsvd": {0.9: 1.606, 0.8: 2.357, 0.6: 32.416, 0.4: 1195.551},
        "svd-llm": {0.9: 1.387, 0.8: 1.505, 0.6: 3.817, 0.4: 62.122},
        "kfac": {0.9: 1.415, 0.8: 1.626, 0.6: 4.908, 0.4: 69.297},
        "aa-svd": {0.9: 1.362, 0.8: 1.413, 0.6: 2.045, 0.4: 9.402},
        "lems": {0.9: 1.336, 0.8: 1.352, 0.6: 1.585, 0.4: 4.692},
        "auto": {0.9: 1.3351, 0.8: 1.337, 0.6: 1.364, 0.4: 1.859},
    },
    # eckart compare SmolLM2 --methods svd-llm,auto --keep 0.8,0.6 --of targets --data wikitext2_valid.txt
    # --samples 64 on the first 120,000 characters of WikiText-2's test split in windows of 512
    "SmolLM2": {
        "svd-llm": {0.8: 59.33, 0.6: 125.04},
        "auto": {0.8: 28.53, 0.6: 37.99},
    },
}
"""A model to a method to perplexities by what is kept of the targets, of a published axis each."""
AXES = ("metric", "structure", "allocation", "recovery", "quantize")


@dataclass(frozen=True)
class Times:
    """How many times the dense perplexity was left of a model.

    Attributes:
        bound: `<` or `>` where only a smaller or a larger cut was measured: it was less, or more, than this.
    """

    value: float
    bound: Literal["", "<", ">"] = ""


@dataclass(frozen=True)
class Suggestion:
    """One size.

    Attributes:
        keep: as it would be asked for.
        plan: what it would come to.
        speed: how many times as fast the targets would be, if time went with operations.
        perplexity: of models that were measured, by their names, how many times the dense perplexity was left
            when as much of their targets was kept.
    """

    keep: float
    plan: Plan
    speed: float
    perplexity: dict[str, Times]


@dataclass(frozen=True, repr=False)
class Suggested(Shown):
    """What `eckart plan` says where no size was asked for.

    Attributes:
        architecture: of the model.
        recipe: at the first of the sizes.
        rows: the sizes that are possible, descending.
        notes: what a reader should know.
        seconds: that it took to work this out.
    """

    architecture: str
    recipe: Recipe
    rows: list[Suggestion]
    seconds: float
    notes: list[str] = field(default_factory=list)

    def in_a_line(self) -> str:
        """The sizes."""
        sizes = ", ".join(f"{row.keep:g} -> {row.plan.bytes.after / 1e6:,.1f} MB" for row in self.rows)
        return f"{self.architecture}, {self.recipe.method}: keep {sizes}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each size."""
        measured = list(self.rows[0].perplexity)
        head = ("keep", "parameters", "MB", "speed", *measured)
        return head, (
            (
                *(row.keep, row.plan.parameters.after, row.plan.bytes.after / 1e6, row.speed),
                *(f"{row.perplexity[name].bound}{row.perplexity[name].value:.4g}" for name in measured),
            )
            for row in self.rows
        )


def suggestion(keep: float, plan: Plan, writes: bool) -> Suggestion:
    """A size with what is known of others of it.

    Args:
        writes: whether the model predicts tokens: of others there is no perplexity.
    """
    count = plan.parameters
    left = count.targets_after / max(1, count.targets_before)
    return Suggestion(keep, plan, 1 / left, experience(plan.recipe, left) if writes else {})


def experience(recipe: Recipe, left: float) -> dict[str, Times]:
    """Times the dense perplexity with so much of the targets left, on each model that this was measured on.

    Between two sizes the excess loss is taken to be a power of the share that is cut. Nothing was measured of
    a method with another choice on an axis, or of a part of the weights.
    """
    row = find_method(recipe.method)
    if recipe.targets or recipe.layers or any(getattr(recipe, name) != getattr(row, name) for name in AXES):
        return {}
    found = {}
    for model, methods in EXPERIENCE.items():
        if known := methods.get(recipe.method):
            keeps = sorted(known)
            excess = [log(log(known[keep] / DENSE[model])) for keep in keeps]
            inside = min(max(left, keeps[0]), keeps[-1])
            cut = [-log(1 - keep) for keep in keeps]
            value = exp(exp(float(np.interp(-log(1 - inside), cut, excess))))
            found[model] = Times(value, "<" if left > keeps[-1] else ">" if left < keeps[0] else "")
    return found
