"""A weight in few bits, and low-rank factors beside it in the model's own dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from eckart.structures.contract import LinearStructure
from eckart.structures.factored import FactoredLinear
from eckart.structures.pieces import Fitted, Part, Problem, Rounded, Site
from eckart.structures.registry import add

ROUNDS = 5
"""Of rounding and decomposing in turns."""


class CorrectedLinear(FactoredLinear):
    """`y = Q x + U (V x) + b`, with `Q (out, in)` of few bits, and `V (rank, in)`, `U (out, rank)` of floats.

    `Q` is a plain linear layer until a `QuantizedLinear` takes its place. It holds
    `in · out + rank · (in + out)` parameters and the bias: more than the dense layer, in fewer bytes.
    """

    structure = "quantized+lowrank"
    Q: nn.Module

    def build(self, bias: bool, options: dict[str, Any]) -> None:
        self.Q = nn.Linear(self.in_features, self.out_features, bias=False, **options)
        self.V = nn.Linear(self.in_features, self.rank, bias=False, **options)
        self.U = nn.Linear(self.rank, self.out_features, bias=bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.Q(x) + self.U(self._inner(x))
        return y


class QuantizedLowRank(LinearStructure):
    """`Ŵ = Q + U V`: a weight of few bits and what rounding it cost most.

    CALDERA (Saha, Sagan, Srivastava, Goldsmith & Pilanci 2024, arXiv 2405.18886) alternates: `Q` is `W − U V`
    rounded, `U V` the best of its rank for `W − Q` in the metric. We round as the paper does (LDLQ), and go
    on from there (`linalg.nearest_plane`); scales are of rows or groups where the paper has lattices behind
    Hadamard transforms; and we keep the best round, so that no further one does harm.
    """

    name = "quantized+lowrank"
    module = CorrectedLinear
    fewer = False
    needs_bits = True
    supports: ClassVar[frozenset[str]] = frozenset()

    def sizes(self, site: Site) -> range:
        (target,) = site.targets
        return range(1, self.largest(target) + 1)

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        found = {
            "Q.weight": Part((shape.out_features, shape.in_features)),
            "V.weight": Part((size, shape.in_features), rounded=False),
            "U.weight": Part((shape.out_features, size), rounded=False),
        }
        return found | ({"U.bias": Part((shape.out_features,), "bias")} if shape.bias else {})

    def solve(self, problem: Problem, size: int) -> Fitted:
        best, errors = alternate(problem, size)
        return Fitted(best, errors[-1])

    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        bias = tensors.get("U.bias")
        product = tensors["U.weight"].double() @ tensors["V.weight"].double()
        return tensors["Q.weight"].double() + product, None if bias is None else bias.double()

    def biases(self, tensors: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
        return {"U.bias": bias}


def alternate(
    problem: Problem, rank: int, rounds: int = ROUNDS
) -> tuple[dict[str, Tensor | Rounded], list[float]]:
    """Split a weight into a rounded one and factors.

    Args:
        rank: of the factors, from 0, where it is rounding alone.
        rounds: of rounding and decomposing, from 1.

    Returns:
        The tensors of the best round, factors in float64; and the error, relative to `W` in the metric, of
        the best of the rounds so far: first of rounding alone, then after each.

    Raises:
        ValueError: a rank out of range, or entries that are not finite.
    """
    W = problem.weight.double()
    if not 0 <= rank <= min(W.shape):
        raise ValueError(f"rank {rank} is not between 0 and {min(W.shape)}, the weight's smaller side")
    whole = problem.norm(W) or 1.0
    U, V = W.new_zeros(len(W), rank), W.new_zeros(rank, W.shape[1])
    best = problem.round_weight(W), U, V
    errors = [problem.norm(W - best[0].values()) / whole]
    for _ in range(rounds if rank else 0):
        Q = problem.round_weight(W - U @ V)
        rest = W - Q.values()
        U, V = problem.of(rest).approximation(rank)
        error = problem.norm(rest - U @ V) / whole
        if error < errors[-1]:
            best = Q, U, V
        errors.append(min(error, errors[-1]))
    return {"Q.weight": best[0], "V.weight": best[2], "U.weight": best[1]}, errors


add(QuantizedLowRank())
