"""The table that the laws run over: metrics × shapes × solvers; oracles that share no code with Eckart."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from eckart import structures
from eckart.linalg import Decomposition, Problem, Side, Solver
from eckart.structures import Shape

SHAPES: dict[str, tuple[int, int, int, torch.dtype]] = {
    # name: out, in, the weight's own rank, dtype
    "tall": (40, 24, 24, torch.float32),
    "wide": (24, 40, 24, torch.float32),
    "square": (32, 32, 32, torch.float32),
    "rank-deficient": (32, 28, 9, torch.float64),
    "rank-deficient tall": (60, 20, 7, torch.float64),
    "one row": (1, 20, 1, torch.float32),
    "one column": (20, 1, 1, torch.float32),
    "bf16": (30, 24, 24, torch.bfloat16),
}
LARGER: dict[str, tuple[int, int, int, torch.dtype]] = {
    # Where a random subspace for rank `LARGEST` is far from everything.
    "larger tall": (150, 70, 70, torch.float32),
    "larger wide": (70, 150, 70, torch.float32),
    "larger square": (96, 96, 96, torch.float32),
    "larger rank-deficient": (96, 80, 7, torch.float64),
    "larger bf16": (80, 64, 64, torch.bfloat16),
}
LARGEST = 12
RANDOM: tuple[Solver, ...] = ("randomized", "nystrom")


def rng(*key: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def weight(shape: str) -> Tensor:
    out_features, in_features, rank, dtype = (SHAPES | LARGER)[shape]
    draw = rng("weight", shape)
    W = draw.normal(size=(out_features, rank)) @ draw.normal(size=(rank, in_features))
    return torch.from_numpy(W).to(dtype)


@cache
def full_gram(size: int, samples: int, *key: object) -> Tensor:
    """`Σ x xᵀ` over correlated samples; singular where there are fewer than `size`."""
    draw = rng("gram", size, samples, *key)
    scales = np.geomspace(1, 0.1, size)
    X = draw.normal(size=(samples, size)) * scales @ np.linalg.qr(draw.normal(size=(size, size)))[0]
    return torch.from_numpy(X.T @ X)


def diagonal_gram(size: int, *key: object) -> Tensor:
    return torch.from_numpy(rng("diagonal", size, *key).uniform(0.05, 5, size))


def _half(size: int) -> int:
    return max(1, size // 2)


METRICS: dict[str, Callable[..., tuple[Side, Side]]] = {
    # (out, in, unit of each Gram) to the sides.
    "identity": lambda m, n, c=1.0: (Side(), Side()),
    "diagonal": lambda m, n, c=1.0: (Side(), Side(c * diagonal_gram(n))),
    "full": lambda m, n, c=1.0: (Side(), Side(c * full_gram(n, 3 * n))),
    "singular full": lambda m, n, c=1.0: (Side(), Side(c * full_gram(n, _half(n)))),
    "two-sided diagonal": lambda m, n, c=1.0: (Side(c * diagonal_gram(m, "out")), Side(c * diagonal_gram(n))),
    "two-sided full, shrunk": lambda m, n, c=1.0: (
        Side(c * full_gram(m, _half(m), "out")).shrunk(0.01),
        Side(c * full_gram(n, 3 * n)),
    ),
}


def units(metric: str) -> int:
    """How many Grams the unit of a metric is made of."""
    return sum(side.gram is not None for side in METRICS[metric](1, 1))


def dense_gram(side: Side, size: int) -> np.ndarray:
    """The Gram of a side as a matrix, in its own unit."""
    if side.gram is None:
        return np.eye(size)
    gram = side.scale * side.gram.numpy()
    return np.diag(gram) if gram.ndim == 1 else gram


def oracle_norm(E: Tensor | np.ndarray, left: Side, right: Side) -> float:
    """`‖Lᵀ E R‖` straight from the Grams."""
    E = np.asarray(E)
    GL, GR = dense_gram(left, E.shape[0]), dense_gram(right, E.shape[1])
    return float(np.sqrt(max(np.sum((GL @ E) * (E @ GR)), 0)))


def oracle_error(weight: Tensor, approximation: Tensor | np.ndarray, left: Side, right: Side) -> float:
    """`‖Lᵀ (W − Ŵ) R‖ / ‖Lᵀ W R‖`, straight from the Grams."""
    W = weight.double().numpy()
    return oracle_norm(W - np.asarray(approximation), left, right) / oracle_norm(W, left, right)


def sizes(shape: str, structure: str = "lowrank") -> list[int]:
    """Size 1, some between, and the largest with which no part of the structure is empty."""
    out_features, in_features, own, _ = SHAPES[shape]
    found, form = structures.find(structure), Shape(out_features, in_features)
    most = found.largest(form)
    while most and not all(part.entries for part in found.parts(form, most).values()):
        most -= 1
    return sorted({size for size in (1, 2, most // 2, own, own + 1, most - 1, most) if 1 <= size <= most})


def replaced(problem: Problem, structure: str, size: int) -> Tensor:
    """The dense weight that a structure fits to a problem, float64."""
    found = structures.find(structure)
    (fitted,) = found.fit([problem], size)
    return found.dense(structures.values_of(fitted), size)[0]


class Solved(Problem):
    """A weight whose decomposition is there already."""

    def __init__(self, W: Tensor, left: Side, right: Side, found: Decomposition) -> None:
        super().__init__(W, left, right)
        self.found = found

    def solve(self, rank: int | None) -> Decomposition:
        return self.found
