"""Kronecker sums: a weight as the sum of a few Kronecker products of two small matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from math import log
from typing import Any

import torch
from torch import Tensor, nn

from eckart.structures.contract import LinearStructure
from eckart.structures.modules import StructuredLinear
from eckart.structures.pieces import Fitted, Part, Problem, Site
from eckart.structures.registry import add

ROUNDS = 3
"""Of solving for one side of all products and then for the other."""
STEPS = 8
"""Of conjugate gradients for a side; they begin at the round before."""
DONE = 1e-12
"""Of the first residual's square: what is left is rounding."""


@cache
def kronecker_shapes(out_features: int, in_features: int) -> tuple[int, int, int, int]:
    """`(m1, n1, m2, n2)` of `A (m1, n1)` and `B (m2, n2)` with the fewest parameters.

    `m1·m2 = out`, `n1·n2 = in`; of several the ones whose sides are nearest to square roots. They are part of
    the format: a config has the number of terms alone.
    """
    choices = [
        (
            m1 * n1 + (out_features // m1) * (in_features // n1),
            _lopsided(m1, out_features, n1, in_features),
            m1,
            n1,
        )
        for m1 in _divisors(out_features)
        for n1 in _divisors(in_features)
    ]
    _, _, m1, n1 = min(choices)
    return m1, n1, out_features // m1, in_features // n1


def _divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def _lopsided(m1: int, out_features: int, n1: int, in_features: int) -> float:
    return abs(log(m1 * m1 / out_features)) + abs(log(n1 * n1 / in_features))


class KroneckerLinear(StructuredLinear):
    """`y = Σ_k (A_k ⊗ B_k) x + b`, all `A_k` side by side in a linear layer, all `B_k` stacked in another.

    With `x` as `X (n1, n2)` it is `Σ_k A_k X B_kᵀ`: `terms · (m1·n1 + m2·n2)` parameters and the bias.

    Args:
        in_features, out_features, bias, device, dtype: as of `nn.Linear`.
        terms: how many products.
    """

    structure = "kronecker"
    bias: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        terms: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, terms)
        m1, n1, m2, n2 = kronecker_shapes(out_features, in_features)
        self.B = nn.Linear(n2, terms * m2, bias=False, device=device, dtype=dtype)
        self.A = nn.Linear(terms * n1, m1, bias=False, device=device, dtype=dtype)
        values = torch.zeros(out_features, device=device, dtype=dtype)
        self.register_parameter("bias", nn.Parameter(values) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        _, n1, m2, n2 = kronecker_shapes(self.out_features, self.in_features)
        inner = self.B(x.unflatten(-1, (n1, n2))).unflatten(-1, (self.size, m2))
        y: Tensor = self.A(inner.movedim(-3, -1).transpose(-3, -2).flatten(-2)).transpose(-2, -1).flatten(-2)
        return y if self.bias is None else y + self.bias


class Kronecker(LinearStructure):
    """`Ŵ = Σ_k A_k ⊗ B_k` (Van Loan & Pitsianis 1993; KroneckerBERT, Tahaei et al. 2021, arXiv 2109.06243).

    In the metric of the identity it is one SVD of the weight with its blocks as rows. In any other the sides
    are solved for in turns, each a linear least-squares problem, from there on.
    """

    name = "kronecker"
    module = KroneckerLinear
    size_name = "number of terms"

    def largest(self, shape: Any) -> int:
        m1, n1, m2, n2 = kronecker_shapes(shape.out_features, shape.in_features)
        return min(m1 * n1, m2 * n2)

    def sizes(self, site: Site) -> range:
        (target,) = site.targets
        m1, n1, m2, n2 = kronecker_shapes(target.out_features, target.in_features)
        pays = (target.out_features * target.in_features - 1) // (m1 * n1 + m2 * n2)
        return range(1, min(pays, self.largest(target)) + 1)

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        m1, n1, m2, n2 = kronecker_shapes(shape.out_features, shape.in_features)
        found = {"B.weight": Part((size * m2, n2)), "A.weight": Part((m1, size * n1))}
        return found | ({"bias": Part((shape.out_features,), "bias")} if shape.bias else {})

    def solve(self, problem: Problem, size: int) -> Fitted:
        a, b = _truncated(problem.weight, size)
        return _fitted(*_alternated(problem, a, b), problem.weight)

    def draft(self, problems: Sequence[Problem], size: int) -> list[Fitted]:
        return [_fitted(*_truncated(each.weight, size), each.weight) for each in problems]

    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        A, B = tensors["A.weight"].double(), tensors["B.weight"].double()
        left, right = A.unflatten(1, (size, -1)), B.unflatten(0, (size, -1))
        weight = torch.einsum("akb,kcd->acbd", left, right).flatten(2).flatten(0, 1)
        bias = tensors.get("bias")
        return weight, None if bias is None else bias.double()


def rearranged(weight: Tensor) -> Tensor:
    """A weight with its blocks `(m2, n2)` as rows, `(m1·n1, m2·n2)`: a Kronecker product has rank 1 there."""
    m1, n1, m2, n2 = kronecker_shapes(*weight.shape)
    return weight.reshape(m1, m2, n1, n2).transpose(1, 2).reshape(m1 * n1, m2 * n2)


def _restored(blocks: Tensor, shape: torch.Size) -> Tensor:
    m1, n1, m2, n2 = kronecker_shapes(*shape)
    return blocks.reshape(m1, n1, m2, n2).transpose(1, 2).reshape(shape)


def _truncated(weight: Tensor, terms: int) -> tuple[Tensor, Tensor]:
    """The best `a (m1·n1, k)` and `b (k, m2·n2)` in the identity's metric."""
    blocks = rearranged(weight.double())
    tall = blocks if blocks.shape[0] >= blocks.shape[1] else blocks.T
    _, vectors = torch.linalg.eigh(tall.T @ tall)
    vectors = vectors.flip(-1)[:, :terms]
    # A singular vector is known up to its sign: the largest entry of each is positive.
    vectors = vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
    return (blocks @ vectors, vectors.T) if tall is blocks else (vectors, vectors.T @ blocks)


def _alternated(problem: Problem, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The same in the problem's metric, by solving for `b` and for `a` in turns; never further off."""
    W = problem.weight.double()
    target = rearranged(problem.weighed(W))

    def weighed(blocks: Tensor) -> Tensor:
        return rearranged(problem.weighed(_restored(blocks, W.shape)))

    best, least = (a, b), problem.norm(W - _restored(a @ b, W.shape))
    for _ in range(ROUNDS):
        # An orthonormal side keeps the problem for the other as well-conditioned as the metric is.
        a, rest = torch.linalg.qr(a)
        b = _conjugate_gradients(partial(_from_left, a, weighed), a.T @ target, rest @ b)
        turned, rest = torch.linalg.qr(b.T)
        b = turned.T
        a = _conjugate_gradients(partial(_from_right, b, weighed), target @ b.T, a @ rest.T)
        error = problem.norm(W - _restored(a @ b, W.shape))
        if not error < least:
            break
        best, least = (a, b), error
    return best


def _from_left(a: Tensor, weighed: Callable[[Tensor], Tensor], b: Tensor) -> Tensor:
    return a.T @ weighed(a @ b)


def _from_right(b: Tensor, weighed: Callable[[Tensor], Tensor], a: Tensor) -> Tensor:
    return weighed(a @ b) @ b.T


def _conjugate_gradients(operator: Callable[[Tensor], Tensor], wanted: Tensor, x: Tensor) -> Tensor:
    """A few steps towards `operator(x) = wanted`, for an operator that is symmetric and nowhere negative."""
    residual = wanted - operator(x)
    direction, energy = residual, residual.square().sum()
    first = wanted.square().sum()
    for _ in range(STEPS):
        if energy <= DONE * first:
            break
        moved = operator(direction)
        x = x + (step := energy / (direction * moved).sum()) * direction
        residual = residual - step * moved
        before, energy = energy, residual.square().sum()
        direction = residual + energy / before * direction
    return x


def _fitted(a: Tensor, b: Tensor, weight: Tensor) -> Fitted:
    """Tensors as the layer has them, each product with half of its size in either side."""
    m1, n1, m2, n2 = kronecker_shapes(*weight.shape)
    terms = a.shape[1]
    tiny = torch.finfo(a.dtype).tiny
    balance = (b.norm(dim=1).clamp_min(tiny) / a.norm(dim=0).clamp_min(tiny)).sqrt()
    A = (a * balance).T.reshape(terms, m1, n1).transpose(0, 1).reshape(m1, terms * n1)
    B = (b / balance[:, None]).reshape(terms * m2, n2)
    return Fitted({"A.weight": A, "B.weight": B})


add(Kronecker())
