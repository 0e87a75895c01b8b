"""The contract of a structure: all that the rest of the program needs to know of one.

A structure is one class in a file of its own. It says which targets it can replace, which tensors stand for
them at each size, how far those are from the weight, and which module computes with them. Parameters, bytes,
file headers, checks at loading and shapes elsewhere are derived from its tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eckart.structures.pieces import (
    Fitted,
    Part,
    Problem,
    Rounded,
    Shape,
    Shard,
    Site,
    stored_once,
    values_of,
)

FITTED_SIZES = 6
"""Sizes that are fitted to learn what a structure without a spectrum loses at each."""


class Structure(ABC):
    """What may stand for the weights of a site.

    Attributes:
        name: as in recipes, configs and manifests.
        size_name: what its size is, in the field's word.
        fewer: whether it has fewer parameters than the dense weight. One that has not saves bytes, by `bits`.
        spectral: whether its error at each size is the spectral tail at that rank.
        needs_bits: whether a matrix of it is always in few bits.
        channels: whether its sites are the inner channels of MLPs, and its layers plain ones that are
            narrower. What has no such channels stays dense.
        output_factor: the module of its layers that makes the output of what another one made of the input; a
            short training is of it alone. `None` where there is no such one.
        supports: `training` (its tensors can learn), `embedding`, `sharding` (over processes).
        columns, rows: how its linear layers are split over processes where outputs, or inputs, are: `split`,
            or `gathered` where the outputs are needed whole.
    """

    name: ClassVar[str]
    size_name: ClassVar[str] = "rank"
    fewer: ClassVar[bool] = True
    spectral: ClassVar[bool] = False
    needs_bits: ClassVar[bool] = False
    channels: ClassVar[bool] = False
    output_factor: ClassVar[str | None] = None
    supports: ClassVar[frozenset[str]] = frozenset({"training"})
    columns: ClassVar[Mapping[str, str]] = {}
    rows: ClassVar[Mapping[str, str]] = {}

    def sites(self, targets: Sequence[Any]) -> tuple[list[Site], dict[str, str]]:
        """The sites among the targets, by default each; and which targets it refuses, by name, with why."""
        return [Site((target,)) for target in targets], {}

    def sizes(self, site: Site) -> range:
        """Sizes that may stand at a site, from 1; by default those with fewer parameters than dense."""
        low, high = 0, 1 + max(self.largest(target) for target in site.targets)
        dense = sum(target.out_features * target.in_features for target in site.targets)
        # Parameters grow with the size, so the last one that pays is found by halves.
        while high - low > 1:
            middle = (low + high) // 2
            if self.parameters(site, middle) < dense:
                low = middle
            else:
                high = middle
        return range(1, low + 1)

    def largest(self, shape: Any) -> int:
        """The largest size that a module of this shape can have; by default the smaller side."""
        return int(min(shape.out_features, shape.in_features))

    @abstractmethod
    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        """The tensors of one target's module by their names in it, biases too where `shape` has one.

        Args:
            shape: a `Shape`, or a target.
        """

    def tensors(self, site: Site, size: int) -> dict[str, Part]:
        """The tensors of a site by their names in the model: the single truth about what is saved."""
        return {
            f"{target.name}.{name}": part
            for target in site.targets
            for name, part in self.parts(target, size).items()
        }

    def parameters(self, site: Site, size: int) -> int:
        """Parameters at a size, without biases: what is shared counts once."""
        return sum(part.entries for part in stored_once(self.tensors(site, size)) if part.role == "matrix")

    def errors(self, site: Site, problems: Sequence[Problem]) -> Tensor:
        """The squared error at each size from 0, where nothing is left, to the largest; float64.

        By default drafts of a few sizes are made, and the error's logarithm is interpolated between them.
        """
        sizes = self.sizes(site)
        whole = sum(problem.norm(problem.weight) ** 2 for problem in problems)
        if not len(sizes):
            return torch.tensor([whole], dtype=torch.float64)
        steps = torch.logspace(0, 1, FITTED_SIZES, base=float(len(sizes)), dtype=torch.float64)
        wanted = sorted({min(len(sizes), max(1, round(float(step)))) for step in steps})
        known = [whole]
        for size in wanted:
            left = 0.0
            for problem, fitted in zip(problems, self.draft(problems, size), strict=True):
                rest = problem.weight.double() - self.dense(values_of(fitted), size)[0]
                left += problem.norm(rest) ** 2
            known.append(min(known[-1], left))
        return _between(torch.tensor([0, *wanted]), torch.tensor(known, dtype=torch.float64), len(sizes))

    @abstractmethod
    def fit(self, problems: Sequence[Problem], size: int) -> list[Fitted]:
        """The best tensors at a size that this structure knows how to find, for each target of a site.

        Raises:
            ValueError: a weight has entries that are not finite, or the metric cannot be used.
        """

    def draft(self, problems: Sequence[Problem], size: int) -> list[Fitted]:
        """A fit that is good enough to tell what the size loses; by default `fit` itself."""
        return self.fit(problems, size)

    def approximate(self, problems: Sequence[Problem], size: int) -> list[Tensor]:
        """The dense weights that `fit` stands for, float64: what takes their place while searching."""
        return [self.dense(values_of(fitted), size)[0] for fitted in self.fit(problems, size)]

    @abstractmethod
    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        """The weight `(out, in)` and the bias that the tensors of one target stand for, float64."""

    def relative_error(self, problem: Problem, tensors: Mapping[str, Tensor], size: int) -> float:
        """`‖Lᵀ(W − Ŵ)R‖ / ‖LᵀWR‖` of a target's tensors as saved; 0 where the metric sees nothing."""
        return problem.relative_error(self.dense(tensors, size)[0])

    def biases(self, tensors: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
        """The biases of the parts, for a layer's bias `(out)`, given the other tensors as they are saved."""
        return {"bias": bias}

    def round(
        self, problem: Problem, size: int, tensors: Mapping[str, Tensor]
    ) -> tuple[dict[str, Rounded], float]:
        """The matrices that are stored in few bits, and the error that this adds, relative to their product.

        By default each to the nearest.

        Args:
            problem: its weight is of the shape that the tensors stand for.
        """
        found = {
            name: problem.round(tensors[name])
            for name, part in self.parts(Shape(*problem.weight.shape), size).items()
            if part.role == "matrix" and part.rounded
        }
        before = self.dense(tensors, size)[0]
        after = self.dense({**tensors, **{name: each.values() for name, each in found.items()}}, size)[0]
        whole = problem.norm(before)
        return found, problem.norm(before - after) / whole if whole else 0.0

    @abstractmethod
    def layer(
        self,
        shape: Any,
        size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        """An empty module that computes with the tensors: its state dict is `parts`."""

    def embedding(self, old: nn.Embedding, size: int, scale: float, device: Any) -> nn.Module:
        """An empty module that looks tokens up, whose state dict has the names and shapes of `parts`.

        Args:
            old: the dense embedding.
            scale: what its class multiplies by; 1 where it does not.
        """
        raise NotImplementedError(f"an embedding cannot be {self.name}")

    def entry(self, size: int) -> Any:
        """What `config.json` says of a module."""
        return {"rank": size, "structure": self.name}

    def shard(self, tensors: Mapping[str, Tensor], rows: Tensor, columns: slice) -> Shard:
        """What one process holds of a module whose outputs and inputs are shared out.

        Args:
            tensors: all of the module's.
            rows: indices of the outputs that the process holds.
            columns: the inputs that it holds.

        Raises:
            ValueError: tensors that contradict each other.
        """
        raise NotImplementedError(f"{self.name} cannot be shared out over processes")


class LinearStructure(Structure):
    """A structure whose sites are single linear layers.

    Attributes:
        module: the class of its layers, called as `(in_features, out_features, size, bias, device, dtype)`.
    """

    module: ClassVar[Callable[..., nn.Module]]

    def layer(
        self,
        shape: Any,
        size: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> nn.Module:
        return self.module(shape.in_features, shape.out_features, size, shape.bias, device, dtype)

    def fit(self, problems: Sequence[Problem], size: int) -> list[Fitted]:
        (problem,) = problems
        return [self.solve(problem, size)]

    @abstractmethod
    def solve(self, problem: Problem, size: int) -> Fitted:
        """The best tensors at a size for one weight."""


def _between(sizes: Tensor, known: Tensor, largest: int) -> Tensor:
    """Errors at all sizes, from those at some: straight lines of the logarithm."""
    tiny = torch.finfo(torch.float64).tiny
    logs = known.clamp_min(tiny).log()
    at = torch.arange(largest + 1, dtype=torch.float64)
    upper = torch.searchsorted(sizes.double(), at).clamp(1, len(sizes) - 1)
    lower = upper - 1
    share = (at - sizes[lower]) / (sizes[upper] - sizes[lower])
    errors = torch.exp(logs[lower] + share.clamp(0, 1) * (logs[upper] - logs[lower]))
    return torch.where(errors <= 2 * tiny, torch.zeros_like(errors), errors)
