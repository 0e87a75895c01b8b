"""The best approximation of every rank at once, for any metric, with no input inverse.

Minimise `‖Lᵀ (W − Ŵ) R‖_F` over rank ≤ r. With `M = Lᵀ W R = P Σ Qᵀ` the optimum is
`Ŵ = L⁻ᵀ P_r P_rᵀ Lᵀ W` (Eckart-Young-Mirsky in the metric), whose squared error is the spectral tail
`Σ_{i>r} σ_i²`. It asks for `P` only: one symmetric eigenproblem on the smaller side of `W`. For a basis
that is not quite `P` the same formula is the best that it allows, and its error is what it leaves behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from torch import Tensor

from eckart.linalg import eigen
from eckart.linalg.eigen import Solver
from eckart.linalg.metric import DTYPE, Side
from eckart.types import Spectrum

TIE_BREAK = 1e-10
"""Weight of the identity beside the input metric. Directions that the data never showed cost nothing
in the metric alone; this orders them by plain energy, so that full rank gives `W` back exactly."""


@dataclass(frozen=True)
class Decomposition:
    """One weight in one metric, ready to be cut at any rank up to `k`.

    Attributes:
        basis: `P`, orthonormal columns, `(out, k)`; the best left subspaces, nested.
        left: the output side of the metric.
        spectrum: the singular values of `M` and their tail.
    """

    basis: Tensor
    left: Side
    spectrum: Spectrum

    def truncated(self, rank: int) -> Decomposition:
        """The same without what lies beyond `rank`, for keeping many of them in memory."""
        return Decomposition(self.basis[:, :rank].clone(), self.left, self.spectrum)

    @property
    def norm(self) -> float:
        """`‖Lᵀ W R‖_F`: the error of nothing at all."""
        return sqrt(self.spectrum.tail[0])

    def predicted_error(self, rank: int) -> float:
        """The relative error at `rank` that the spectrum promises, as `relative_error` measures it."""
        tail = self.spectrum.tail
        return float(np.sqrt(tail[rank] / tail[0])) if tail[0] else 0.0

    def factors(self, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        """`U (out, rank)` and `V (rank, in)` in float64, column `i` of `U` as long as row `i` of `V`.

        Args:
            weight: the `W (out, in)` that was decomposed.
            rank: from 1 to the number of basis columns.
        """
        assert 1 <= rank <= self.basis.shape[1]
        P = self.basis[:, :rank].to(DTYPE)
        U = self.left.over_root(P)
        V = P.T @ self.left.times_root(weight.to(DTYPE).T).T
        # A balanced pair rounds best: half of each singular value on either side.
        tiny = torch.finfo(DTYPE).tiny
        balance = (V.norm(dim=1).clamp_min(tiny) / U.norm(dim=0).clamp_min(tiny)).sqrt()
        return U * balance, V / balance[:, None]


class Factors(Decomposition):
    """A decomposition of which the factors at its largest rank are kept: those of less are parts of them.

    In float32, and without the metric's output side: of many, in a quarter of the memory.
    """

    V: Tensor

    def __init__(self, U: Tensor, V: Tensor, spectrum: Spectrum) -> None:
        super().__init__(U, Side(), spectrum)
        object.__setattr__(self, "V", V)

    @classmethod
    def of(cls, decomposition: Decomposition, weight: Tensor) -> Factors:
        """Of the weight that was decomposed."""
        U, V = decomposition.factors(weight, decomposition.basis.shape[1])
        return cls(U.float(), V.float(), decomposition.spectrum)

    def factors(self, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        return self.basis[:, :rank].to(DTYPE), self.V[:rank].to(DTYPE)


def decompose(
    weight: Tensor,
    left: Side,
    right: Side,
    *,
    rank: int | None = None,
    solver: Solver = "auto",
    seed: int = 0,
) -> Decomposition:
    """Decompose `W (out, in)`, any dtype, on any device, in the metric `(left, right)`.

    Args:
        rank: the largest that will be asked for, from 1; default and at most `min(out, in)`.
        solver: `exact`, `randomized` or `nystrom` (see `eigen.leading`), or `auto`: `randomized` where
            the rank is a small share of a large weight, else `exact`.
        seed: of what the last two draw at random.

    Returns:
        A basis of `rank` columns, largest entry of each positive, and the spectrum in the metric's own
        unit: whole from `exact`, of `rank` values from the others. From all of them the tail at each
        rank is the squared error there.

    Raises:
        ValueError: the weight has entries that are not finite, a side is of another size than the weight,
            the output side is singular, the rank is below 1, or there is no such solver.
    """
    problem = _Problem(weight, left, right)
    return problem.solved(*eigen.leading(problem.gram, problem.most(rank), solver, seed))


def decompose_many(
    weights: Sequence[Tensor],
    lefts: Sequence[Side],
    rights: Sequence[Side],
    *,
    rank: int | None = None,
    solver: Solver = "auto",
    seed: int = 0,
    together: bool | None = None,
) -> list[Decomposition]:
    """Decompose weights of one shape, each in its metric, as `decompose` does.

    Args:
        weights, lefts, rights: as many of each; the weights `(out, in)` on one device.
        rank, solver, seed: as for `decompose`, the same for all.
        together: whether to solve their eigenproblems in one call, which takes the memory of all Grams
            at once. Default: on a GPU only; a CPU gains next to nothing (`benchmarks/solvers.py`).

    Raises:
        ValueError: as `decompose`, or the weights are not of one shape.
    """
    if len({weight.shape for weight in weights}) > 1:
        raise ValueError("weights that are decomposed together must be of one shape")
    todo = zip(weights, lefts, rights, strict=True)
    if together is None:
        together = any(weight.is_cuda for weight in weights)
    if not together or not weights:
        return [decompose(*each, rank=rank, solver=solver, seed=seed) for each in todo]
    problems = [_Problem(*each) for each in todo]
    grams = torch.stack([problem.gram for problem in problems])
    energies, vectors = eigen.leading(grams, problems[0].most(rank), solver, seed)
    return [problem.solved(*each) for problem, *each in zip(problems, energies, vectors, strict=True)]


class _Problem:
    """The symmetric eigenproblem `M Mᵀ`, on the smaller side of one weight.

    Attributes:
        gram: `M Mᵀ (m, m)`, `m = min(out, in)`; for a tall weight in an orthonormal basis of the columns
            of `Lᵀ W`, outside of which nothing helps.
    """

    def __init__(self, weight: Tensor, left: Side, right: Side) -> None:
        out_features, in_features = weight.shape
        for side, size in ((left, out_features), (right, in_features)):
            if side.size not in (None, size):
                raise ValueError(
                    f"a metric of size {side.size} does not fit a weight {out_features}x{in_features}"
                )
        if not torch.isfinite(weight).all():
            raise ValueError("the weight has entries that are not finite")
        if left.singular:
            raise ValueError("a singular output metric cannot be undone: shrink it first")
        self.left = left
        self.unit = sqrt(left.scale) * sqrt(right.scale)
        W = left.times_root(weight.to(DTYPE).T).T
        self.reflections: tuple[Tensor, Tensor] | None = None
        if out_features > in_features:
            self.reflections = torch.geqrf(W)
            W = self.reflections[0][:in_features].triu()
        # The identity has no ties to break, and gives back the weight itself.
        weighted = (
            W if right.gram is None else right.times_gram(W).add_(W, alpha=TIE_BREAK).div_(1 + TIE_BREAK)
        )
        self.gram = weighted @ W.T

    def most(self, rank: int | None) -> int | None:
        """How many vectors to ask for; `None` for all."""
        if rank is not None and rank < 1:
            raise ValueError(f"a rank is at least 1, not {rank}")
        return None if rank is None else min(rank, len(self.gram))

    def solved(self, energies: Tensor, vectors: Tensor) -> Decomposition:
        """The decomposition, from what `eigen.leading` found."""
        if self.reflections is not None:
            # The basis itself is never written out: its reflections turn the few vectors that are wanted.
            lengthen = (0, 0, 0, len(self.reflections[0]) - len(vectors))
            vectors = torch.ormqr(*self.reflections, torch.nn.functional.pad(vectors, lengthen))
        largest = vectors.abs().argmax(dim=0, keepdim=True)
        basis = vectors * vectors.gather(0, largest).sign()
        return Decomposition(basis, self.left, self._spectrum(energies))

    def _spectrum(self, energies: Tensor) -> Spectrum:
        squares = energies.clamp_min(0).cpu().numpy()
        left_over = 0.0
        if len(squares) < len(self.gram):
            left_over = max(float(self.gram.trace()) - float(squares.sum()), 0.0)
        tail = np.cumsum(np.append(left_over, squares[::-1]))[::-1].copy()
        return Spectrum(values=np.sqrt(squares) * self.unit, tail=tail * self.unit**2)
