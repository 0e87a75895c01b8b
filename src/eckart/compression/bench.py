"""A model on the bench: what is worked out once, however many sizes are tried on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from eckart import allocate, calibrate, linalg, recipes
from eckart.compression.rounding import correct
from eckart.estimate.prices import Prices
from eckart.model import portable, replacing, vocabulary
from eckart.model.targets import weight_of
from eckart.types import (
    CORRECTED,
    Curve,
    EckartError,
    Factors,
    Moment,
    Recipe,
    Target,
    TargetRecord,
    Track,
    silent,
)

Ranks = Sequence[int | None]

TOGETHER = 8
"""Weights of one shape that a GPU decomposes in one call: it takes the memory of all their Grams."""


class Workbench:
    """A model, its targets and what was observed; its metrics, decompositions and curves, each made once.

    Attributes:
        model: dense at first; `install` cuts it, `restore` makes it dense again.
        targets: those that may be cut, in the model's order.
        prices: what they cost.

    Args:
        observed: moments, or `None` where the metric needs none.
        track: shows progress.
        tokens: how often an embedding's tokens were read, by its name.
    """

    def __init__(
        self,
        model: Any,
        targets: Sequence[Target],
        recipe: Recipe,
        observed: calibrate.Observed | None,
        track: Track = silent,
        tokens: Mapping[str, Moment] | None = None,
    ) -> None:
        self.model, self.recipe, self.observed, self.track = model, recipe, observed, track
        self.targets = list(targets)
        self.metric = recipes.find_metric(recipe.metric)
        self.prices = Prices.of(model, self.targets, recipe)
        self._solved: dict[str, linalg.Decomposition] = {}
        self._left: tuple[str, linalg.Side] | None = None
        self._right: tuple[str, linalg.Side] | None = None
        self._dense: dict[str, Any] = {}
        self.tokens = dict(tokens or {})
        # The target, if any, that is an embedding, or a head with the embedding's weight.
        leader = vocabulary.leader_of(model)
        self._embeds = leader if leader and vocabulary.is_embedding(model, leader) else None
        self._tied = leader if leader and vocabulary.siblings_of(model, leader) else None

    @property
    def size(self) -> int:
        """Parameters of all targets, dense."""
        return sum(target.out_features * target.in_features for target in self.targets)

    def sides(self, name: str) -> tuple[linalg.Side, linalg.Side]:
        """The metric of a target: how errors weigh on its outputs, and on its inputs."""
        return self.left(name), self._inputs(name)

    def left(self, name: str) -> linalg.Side:
        """The output side. The identity, too, for a target that the loss does not depend on."""
        build = {
            "identity": None,
            "second-moment": linalg.Side.from_second_moment,
            "fisher-rows": linalg.Side.from_fisher_rows,
        }[self.metric.left]
        if name in self.tokens:
            return linalg.Side.from_fisher_rows(self.tokens[name])
        if build is None or not self._has_gradient(name):
            return linalg.Side()
        assert self.observed is not None
        # Asked for again and again while one target is worked on: a side factors its Gram once.
        if self._left is None or self._left[0] != name:
            self._left = name, build(self.observed.gradients[name]).shrunk(self.metric.shrink)
        return self._left[1]

    def _inputs(self, name: str) -> linalg.Side:
        build = {
            "identity": None,
            "mean-absolute": linalg.Side.from_mean_absolute,
            "second-moment": linalg.Side.from_second_moment,
        }[self.metric.right]
        if build is None or name == self._embeds:
            return linalg.Side()
        assert self.observed is not None
        space = self.observed.spaces[name]
        # Targets come in the model's order, so those of one space come together: one side is enough.
        if self._right is None or self._right[0] != space:
            moment = self.observed.moments[space]
            self._right = space, build(vocabulary.blended(moment) if name == self._tied else moment)
        return self._right[1]

    def _has_gradient(self, name: str) -> bool:
        moment = self.observed.gradients.get(name) if self.observed else None
        if moment is None:
            return False
        sums = moment.fisher if self.metric.left == "fisher-rows" else moment.second
        return sums is not None and bool((sums > 0).any())

    def weight(self, name: str) -> Any:
        """A target's dense weight `(out, in)`, whatever stands in its place now."""
        return weight_of(self._dense.get(name) or self.model.get_submodule(name))

    def decomposition(self, target: Target, rank: int | None = None) -> linalg.Decomposition:
        """Of the dense weight in the recipe's metric, up to a rank; by default the largest that pays."""
        if target.name not in self._solved:
            self._decompose([target], rank or self._largest(target))
        return self._solved[target.name]

    def forget(self, target: Target) -> None:
        """Give up the memory of a decomposition that is not asked for again."""
        self._solved.pop(target.name, None)

    def _largest(self, target: Target) -> int:
        shape = (target.out_features, target.in_features)
        return max(1, linalg.largest_paying_rank(self.recipe.structure, *shape))

    def _decompose(self, targets: Sequence[Target], rank: int) -> None:
        weights = [self.weight(target.name) for target in targets]
        try:
            lefts, rights = zip(*(self.sides(target.name) for target in targets), strict=True)
            solved = linalg.decompose_many(weights, lefts, rights, rank=rank)
        except (ValueError, RuntimeError) as error:
            names = ", ".join(target.name for target in targets)
            raise EckartError(f"{names} could not be decomposed: {error}") from error
        for target, each in zip(targets, solved, strict=True):
            self._solved[target.name] = each.truncated(rank)

    def curves(self) -> list[Curve]:
        """What each target costs and loses at each rank, in units that compare between targets."""
        pieces = self._pieces([target for target in self.targets if target.name not in self._solved])
        for piece in self.track(pieces, "decomposing", len(pieces)):
            self._decompose(piece, self._largest(piece[0]))
        return self.prices.curves(self.targets, [self._errors(target) for target in self.targets])

    def _pieces(self, targets: Sequence[Target]) -> list[list[Target]]:
        """Targets of one shape, a few together where a GPU solves them in one call."""
        together = TOGETHER if self.model.device.type == "cuda" else 1
        shapes: dict[tuple[int, int], list[Target]] = {}
        for target in targets:
            shapes.setdefault((target.out_features, target.in_features), []).append(target)
        return [
            group[at : at + together] for group in shapes.values() for at in range(0, len(group), together)
        ]

    def costs(self) -> list[Curve]:
        """What each target costs at each rank."""
        return self.prices.curves(self.targets)

    def _errors(self, target: Target) -> np.ndarray:
        tail = self.decomposition(target).spectrum.tail
        share = tail / (tail[0] or 1.0)
        if not self.metric.in_loss_units:
            # Energies of different targets are in different units; their shares compare.
            return share
        if self._without_gradient(target):
            others = [each for each in self.targets if not self._without_gradient(each)]
            whole = [float(self.decomposition(each).spectrum.tail[0]) for each in others]
            return share * (sum(whole) / len(whole) if whole else 1.0)
        return tail if self._has_gradient(target.name) else np.zeros_like(tail)

    def _without_gradient(self, target: Target) -> bool:
        """Whether a target has no gradients to be weighed by: all of it then counts as an average target."""
        return target.name == self._embeds or target.out_features > calibrate.WIDEST

    @contextmanager
    def tried(self, ranks: Ranks) -> Iterator[None]:
        """The model as if its targets were cut: weights of lower rank in the dense modules, and back."""
        todo = [(target, rank) for target, rank in zip(self.targets, ranks, strict=True) if rank is not None]
        weights = (
            (target.name, linalg.reconstruct(Factors("lowrank", *self._pair(target, rank))))
            for target, rank in todo
        )
        with replacing.stand_ins(self.model, weights):
            yield

    def _pair(self, target: Target, rank: int) -> tuple[Any, Any]:
        return self.decomposition(target).factors(self.weight(target.name), rank)

    def install(self, ranks: Ranks, keep_dense: bool = False) -> list[TargetRecord]:
        """Cut the targets to these ranks, `None` for dense: factors in the modules' places.

        Args:
            keep_dense: so that `restore` is possible; takes the memory of the dense weights.
        """
        todo = list(zip(self.targets, ranks, strict=True))
        records = []
        for target, rank in self.track(todo, "factorizing", len(todo)):
            weight, sides = self.weight(target.name).clone(), self.sides(target.name)
            records.append(
                self.place(target, rank, weight, self.solved(target, rank, keep_dense), sides, keep_dense)
            )
            if not keep_dense:
                self.forget(target)
        return records

    def solved(self, target: Target, rank: int | None, keep_dense: bool) -> linalg.Decomposition | None:
        """What `place` needs of a target's dense weight: nothing where it stays, or is decomposed anew."""
        if rank is None or self.recipe.structure == CORRECTED:
            return None
        # What is cut once is decomposed to its rank alone; another size may ask for more.
        return self.decomposition(target, None if keep_dense else rank)

    def place(
        self,
        target: Target,
        rank: int | None,
        weight: Any,
        solved: linalg.Decomposition | None,
        sides: tuple[linalg.Side, linalg.Side],
        keep_dense: bool,
    ) -> TargetRecord:
        """Put `weight` at `rank`, in the recipe's structure, in the place of a target's dense module.

        Args:
            rank: `None` leaves the module as it is.
            weight: what the factors stand for: the dense weight, or what a refit made of it.
            solved: its decomposition; `quantized+lowrank` makes its own.
            sides: the metric that errors are reported in.
        """
        dense = linalg.parameters("dense", target.out_features, target.in_features, 0)
        shape = {"name": target.name, "out_features": target.out_features, "in_features": target.in_features}
        if rank is not None and self.recipe.structure == CORRECTED:
            assert self.recipe.quantize is not None
            self.keep(target, keep_dense)
            held, error = correct(self.model, target.name, weight, rank, self.recipe.quantize, sides)
            return TargetRecord(
                **shape,  # type: ignore[arg-type]
                structure=held.structure,
                rank=rank,
                parameters_before=dense,
                parameters_after=dense + held.U.numel() + held.V.numel(),
                predicted_error=error,
                measured_error=linalg.relative_error(weight, linalg.reconstruct(held), *sides),
                quantize=self.recipe.quantize,
            )
        if rank is None or solved is None:
            return TargetRecord(
                **shape,  # type: ignore[arg-type]
                structure="dense",
                rank=None,
                parameters_before=dense,
                parameters_after=dense,
                predicted_error=0.0,
                measured_error=0.0,
            )
        factors = linalg.factorize(self.recipe.structure, *solved.factors(weight, rank))
        self.keep(target, keep_dense)
        saved = replacing.replace(self.model, target.name, factors)
        # In float64 they are larger than the weight, and what follows takes as much again.
        del factors
        return TargetRecord(
            **shape,  # type: ignore[arg-type]
            structure=saved.structure,
            rank=rank,
            parameters_before=dense,
            parameters_after=saved.U.numel() + saved.V.numel(),
            predicted_error=solved.predicted_error(rank),
            measured_error=linalg.relative_error(weight, linalg.reconstruct(saved), *sides, solved.norm),
        )

    def reweigh(self, target: Target, weight: Any, keep_dense: bool) -> None:
        """Give a target that stays dense another weight."""
        self.keep(target, keep_dense)
        replacing.reweigh(self.model, target.name, weight)

    def keep(self, target: Target, keep_dense: bool) -> None:
        """Have `restore` put back what is in a target's place now, where it is still the dense module."""
        if keep_dense:
            for name in (target.name, *vocabulary.siblings_of(self.model, target.name)):
                self._dense.setdefault(name, self.model.get_submodule(name))

    def restore(self) -> None:
        """Make the model dense again, where `install` kept what was there."""
        for name, module in self._dense.items():
            portable.put(self.model, name, module)
        self._dense.clear()


def allocated(bench: Workbench, allocation: str, budget: int) -> list[int | None]:
    """Ranks by one allocator, from the spectra where it needs them."""
    needs_errors = allocation in allocate.NEEDS_ERRORS
    return allocate.ALLOCATORS[allocation](bench.curves() if needs_errors else bench.costs(), budget)
