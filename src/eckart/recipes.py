"""The catalogue: a published method is a row of choices on four axes, never code of its own.

To add a method, add a row to `METHODS`. If it needs a metric that is not there, add a value to `METRICS`;
if it does not fit in a row at all, an axis is missing a value.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from eckart.types import Structure, UsageError

Gram = Literal["identity", "mean-absolute", "second-moment"]


@dataclass(frozen=True)
class Metric:
    """How error is weighed: the Gram of the input side, `R Rᵀ`; the output side is the identity so far.

    Such errors are not in one unit, so an allocator is given each target's relative to its own energy.
    """

    right: Gram
    meaning: str


METRICS: dict[str, Metric] = {
    "identity": Metric("identity", meaning="plain Frobenius error of the weight"),
    "input-scale": Metric(
        "mean-absolute", meaning="input channels weighed by their mean size, R = diag(mean|x|)^0.5"
    ),
    "input": Metric(
        "second-moment", meaning="error of the outputs over the calibration tokens, R Rᵀ = E[x xᵀ]"
    ),
}

MOMENTS: dict[Gram, frozenset[str]] = {
    "identity": frozenset(),
    "mean-absolute": frozenset({"absolute"}),
    "second-moment": frozenset({"second"}),
}


@dataclass(frozen=True)
class Method:
    """I am a row: four choices, a paper, a departure."""

    name: str
    metric: str
    structure: Structure
    allocation: str
    recovery: str
    paper: str
    departure: str

    @property
    def needs_data(self) -> bool:
        return bool(moments_of(self.metric))


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "svd",
            metric="identity",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="Eckart & Young 1936; Xue et al. 2013; Ben Noach & Goldberg 2020",
            departure="none",
        ),
        Method(
            "asvd",
            metric="input-scale",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="ASVD, Yuan et al. 2023, arXiv 2312.05821",
            departure="uniform ranks where the paper searches by sensitivity; a failed solve is an error",
        ),
        Method(
            "svd-llm",
            metric="input",
            structure="lowrank",
            allocation="uniform",
            recovery="none",
            paper="SVD-LLM, Wang et al. 2025 (ICLR), arXiv 2403.07378; DRONE, Chen et al. 2021 (NeurIPS)",
            departure="same optimum by an eigenproblem on the outputs: no Cholesky factor, no inverse, so a "
            "singular moment is no problem; the paper's closed-form update of U is left out",
        ),
    )
}


def find_method(name: str) -> Method:
    """The row of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in METHODS:
        return METHODS[name]
    raise UsageError(unknown("method", name, METHODS))


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        UsageError: there is none; names the nearest.
    """
    if name in METRICS:
        return METRICS[name]
    raise UsageError(unknown("metric", name, METRICS))


def moments_of(metric: str) -> frozenset[str]:
    """Which sums over calibration tokens a metric is made from; empty where it needs no data."""
    value = find_metric(metric)
    return MOMENTS[value.right]


def unknown(kind: str, name: str, known: object) -> str:
    """An unknown name, the nearest known one, and all there are."""
    names = list(known)  # type: ignore[call-overload]
    near = get_close_matches(name, names, 1, 0.4)
    meant = f"; did you mean {near[0]}?" if near else ";"
    return f"unknown {kind} {name!r}{meant} there are: {', '.join(names)}"
