"""A model's sites with what is worked out about them once: metrics, decompositions and curves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from eckart import calibrate, linalg, recipes, structures
from eckart.compression.store import Store
from eckart.estimate.prices import Prices, SiteErrors
from eckart.linalg import Problem
from eckart.model import replacing, vocabulary
from eckart.model.targets import weight_of
from eckart.structures import BITS, Site, put, values_of
from eckart.types import Curve, EckartError, Moment, Option, Recipe, Target, TargetRecord

TOGETHER = 8
"""Weights of one shape that a GPU decomposes in one call: it takes the memory of all their Grams."""


class Bench:
    """The sites of a model, dense at first: their metrics, decompositions and curves, each made once.

    Attributes:
        targets: those that may be replaced, in the model's order.
        sites: what structures replace in one piece.
        prices: their options and what these cost.

    Args:
        store: where the model, its moments and its decompositions are.
        tokens: how often an embedding's tokens were read, by its name.
    """

    def __init__(
        self,
        store: Store,
        targets: Sequence[Target],
        recipe: Recipe,
        prices: Prices,
        tokens: Mapping[str, Moment] | None = None,
    ) -> None:
        self.store, self.recipe, self.prices = store, recipe, prices
        self.targets = list(targets)
        self.sites = prices.sites(self.targets)
        self.metric = recipes.find_metric(recipe.metric)
        self.tokens = dict(tokens or {})
        self.solved: dict[str, linalg.Decomposition] = {}
        self._lost: dict[str, dict[str, np.ndarray]] = {}
        self._left: tuple[str, linalg.Side] | None = None
        self._rights: dict[str, linalg.Side] = {}
        self._dense: dict[str, Any] = {}
        # The target, if any, that is an embedding, or a head with the embedding's weight.
        leader = vocabulary.leader_of(store.model)
        self._embeds = leader if leader and vocabulary.is_embedding(store.model, leader) else None
        self._tied = leader if leader and vocabulary.siblings_of(store.model, leader) else None

    @property
    def model(self) -> Any:
        """As it is now."""
        return self.store.model

    @property
    def size(self) -> int:
        """Of all sites, dense, in the budget's unit."""
        return sum(self.prices.cost(site, self.prices.dense()) for site in self.sites)

    def sides(self, name: str) -> tuple[linalg.Side, linalg.Side]:
        """The metric of a target: how errors weigh on its outputs, and on its inputs."""
        return self.left(name), self._right(name)

    def left(self, name: str) -> linalg.Side:
        """The output side. The identity, too, for a target that the loss does not depend on."""
        build = {
            "identity": None,
            "second-moment": linalg.Side.from_second_moment,
            "fisher-rows": linalg.Side.from_fisher_rows,
        }[self.metric.left]
        if name in self.tokens:
            return linalg.Side.from_fisher_rows(self.tokens[name])
        if build is None or not self.weighed(name):
            return linalg.Side()
        assert self.store.observed is not None
        # Asked for again and again while one target is worked on: a side factors its Gram once.
        if self._left is None or self._left[0] != name:
            self._left = name, build(self.store.observed.gradients[name]).shrunk(self.metric.shrink)
        return self._left[1]

    def _right(self, name: str) -> linalg.Side:
        build: Any = {
            "identity": None,
            "mean-absolute": linalg.Side.from_mean_absolute,
            "second-moment": linalg.Side.from_second_moment,
        }[self.metric.right]
        if build is None or name == self._embeds:
            return linalg.Side()
        assert self.store.observed is not None
        space = self.store.observed.spaces[name]
        if space not in self._rights:
            moment, own = self.store.moment(space, build == linalg.Side.from_second_moment)
            if not own:
                # Targets come in the model's order, so those of one space come together: one side is enough.
                self._rights.clear()
            moment = vocabulary.blended(moment) if name == self._tied else moment
            sums = moment.absolute if moment.second is None else moment.second
            if sums is None or not (sums.diagonal() if sums.ndim == 2 else sums).any():
                # Nothing but zeros comes in: all that can be held against an error there is its size.
                self._rights[space] = linalg.Side()
            else:
                self._rights[space] = build(moment, own=True) if own else build(moment)
        return self._rights[space]

    def forget_sides(self) -> None:
        """Give up what was made of moments."""
        self._left = None
        self._rights.clear()

    def weighed(self, name: str) -> bool:
        """Whether a gradient weighs a target's outputs."""
        if (known := self.store.has_gradient(name)) is not None:
            return known
        observed = self.store.observed
        moment = observed.gradients.get(name) if observed else None
        if moment is None:
            return False
        sums = moment.fisher if self.metric.left == "fisher-rows" else moment.second
        return sums is not None and bool((sums > 0).any())

    @property
    def decomposes(self) -> bool:
        """Whether a structure is made of decompositions of the dense weights."""
        return any(structures.find(name).spectral for name in self.recipe.structures)

    @property
    def needs_errors(self) -> bool:
        """Whether options are chosen by what they lose."""
        return self.prices.mixed or not (self.recipe.by_hand or self.recipe.allocation == "uniform")

    def weight(self, name: str) -> Any:
        """A target's dense weight `(out, in)`, whatever stands in its place now."""
        return weight_of(self._dense.get(name) or self.model.get_submodule(name))

    def problems(self, site: Site, bits: str | None = None, once: bool = False) -> list[Problem]:
        """The weights of a site in their metrics.

        Args:
            bits: that rounded matrices are stored in.
            once: whether each is decomposed for one size alone; else for the largest that pays.
        """
        return [_DenseProblem(self, target, bits, once) for target in site.targets]

    def decomposition(self, target: Target, rank: int | None = None) -> linalg.Decomposition:
        """Of the dense weight in the recipe's metric, up to a rank; by default the largest that pays."""
        if target.name not in self.solved:
            self._decompose([target], rank or self._largest(target))
        return self.solved[target.name]

    def forget(self, site: Site) -> None:
        """Give up the memory of decompositions that are not asked for again."""
        for target in site.targets:
            if not self.store.keeps_solution(target.name):
                self.solved.pop(target.name, None)

    def _largest(self, target: Target) -> int:
        pays = [
            structures.find(name).sizes(Site((target,)))
            for name in self.recipe.structures
            if structures.find(name).spectral
        ]
        return (
            max(1, *(len(sizes) for sizes in pays)) if pays else min(target.out_features, target.in_features)
        )

    def _decompose(self, targets: Sequence[Target], rank: int) -> None:
        weights = [self.weight(target.name) for target in targets]
        try:
            lefts, rights = zip(*(self.sides(target.name) for target in targets), strict=True)
            solved = linalg.decompose_many(weights, lefts, rights, rank=rank)
        except (ValueError, RuntimeError) as error:
            names = ", ".join(target.name for target in targets)
            raise EckartError(f"{names} could not be decomposed: {error}") from error
        for target, each in zip(targets, solved, strict=True):
            self.solved[target.name] = each.truncated(rank)

    def curves(self) -> list[Curve]:
        """What each site costs and loses with each option, in units that compare between sites."""
        if self.decomposes:
            todo = [t for site in self.sites for t in site.targets if t.name not in self.solved]
            pieces = self._pieces(todo)
            for piece in self.store.track(pieces, "decomposing", len(pieces)):
                self._decompose(piece, self._largest(piece[0]))
                for name in (target.name for target in piece):
                    self.solved[name] = linalg.Factors.of(self.solved[name], self.weight(name))
        return self.prices.curves(self.sites, [self._errors(site) for site in self.sites])

    def _pieces(self, targets: Sequence[Target]) -> list[list[Target]]:
        """Targets of one shape, a few together where a GPU solves them in one call."""
        most = TOGETHER if self.store.device.type == "cuda" else 1
        shapes: dict[tuple[int, int], list[Target]] = {}
        for target in targets:
            shapes.setdefault((target.out_features, target.in_features), []).append(target)
        return [group[at : at + most] for group in shapes.values() for at in range(0, len(group), most)]

    def costs(self) -> list[Curve]:
        """What each site costs with each option; with their errors where options compare by these alone."""
        return self.curves() if self.prices.mixed else self.prices.curves(self.sites)

    def lost(self, site: Site) -> dict[str, np.ndarray]:
        """What a site loses in each structure at each size, and by rounding, in the metric's own unit."""
        if site.name not in self._lost:
            self._lost[site.name] = self.store.lost(site) or self.measure_losses(site)
        return self._lost[site.name]

    def measure_losses(self, site: Site) -> dict[str, np.ndarray]:
        """The same of weights that are in memory with their moments.

        Returns:
            An array for the name of each structure, and one of a single error for each number of bits where
            options of several are compared.
        """
        bits = next((each for each in self.recipe.bits if each is not None), None)
        problems = self.problems(site, bits)
        if site.dense:
            (only,) = problems
            return dict.fromkeys(self.recipe.structures, np.array([only.norm(only.weight) ** 2]))
        try:
            found = {
                name: structures.find(name).errors(site, problems).numpy() for name in self.recipe.structures
            }
            for each in self.recipe.bits if self.prices.mixed else ():
                if each is not None:
                    rounded = self.problems(site, each)
                    found[each] = np.array([sum(problem.rounding_energy() for problem in rounded)])
        except (ValueError, RuntimeError) as error:
            raise EckartError(f"{site.name} could not be decomposed: {error}") from error
        return found

    def _errors(self, site: Site) -> SiteErrors:
        """Those of a site, comparable between sites."""
        lost, target = self.lost(site), site.targets[0]
        if not self.metric.in_loss_units:
            # Energies of different targets are in different units; their shares compare.
            scaled = {key: values / (self._whole(site) or 1.0) for key, values in lost.items()}
        elif self._without_gradient(target):
            others = [each for each in self.sites if not self._without_gradient(each.targets[0])]
            energies = [self._whole(each) for each in others]
            mean = sum(energies) / len(energies) if energies else 1.0
            scaled = {key: values / (self._whole(site) or 1.0) * mean for key, values in lost.items()}
        elif self.weighed(target.name):
            scaled = lost
        else:
            scaled = {key: np.zeros_like(values) for key, values in lost.items()}
        rounding = {key: float(values[0]) for key, values in scaled.items() if key in BITS}
        return SiteErrors({key: values for key, values in scaled.items() if key not in BITS}, rounding)

    def _whole(self, site: Site) -> float:
        """The error of nothing at all."""
        return float(self.lost(site)[self.recipe.structures[0]][0])

    def _without_gradient(self, target: Target) -> bool:
        """Whether a target has no gradients to be weighed by: all of it then counts as an average target."""
        return target.name == self._embeds or target.out_features > calibrate.WIDEST

    @contextmanager
    def tried(self, options: Sequence[Option]) -> Iterator[None]:
        """The model as if its sites were replaced: with the weights that options stand for in its modules."""
        todo = [
            (site, option)
            for site, option in zip(self.sites, options, strict=True)
            if option.structure != "dense"
        ]
        weights = (
            (target.name, weight)
            for site, option in todo
            for target, weight in zip(site.targets, self.approximated(site, option), strict=True)
        )
        with replacing.stand_ins(self.model, weights):
            yield

    def approximated(self, site: Site, option: Option) -> list[Any]:
        """The dense weights of a site that an option stands for, before any rounding at the end."""
        assert option.size is not None
        return structures.find(option.structure).approximate(self.problems(site, option.bits), option.size)

    def place(
        self,
        site: Site,
        option: Option,
        problems: Sequence[Problem] | None = None,
        *,
        keep_dense: bool,
    ) -> list[TargetRecord]:
        """Put an option in the place of a site's dense modules.

        Args:
            problems: the weights that it stands for, and the metric that errors are reported in; default the
                dense weights in the recipe's metric.
        """
        if option.structure == "dense":
            return [self._record(target, option, site, (0.0, 0.0)) for target in site.targets]
        # What is replaced once is decomposed to its size alone; another size may ask for more.
        problems = problems or self.problems(site, option.bits, once=not keep_dense)
        structure, size = structures.find(option.structure), option.size or 0
        try:
            fits = structure.fit(problems, size)
            if not all(torch.isfinite(each).all() for fit in fits for each in values_of(fit).values()):
                raise ValueError("the factors have entries that are not finite")
        except (ValueError, RuntimeError) as error:
            raise EckartError(f"{site.name} could not be decomposed: {error}") from error
        records = []
        for target, problem, fitted in zip(site.targets, problems, fits, strict=True):
            said = fitted.error
            predicted = structure.relative_error(problem, values_of(fitted), size) if said is None else said
            self.keep(target, keep_dense)
            held = replacing.replace(self.model, target.name, option, fitted.tensors, target.inner)
            measured = structure.relative_error(problem, held, size)
            records.append(self._record(target, option, site, (predicted, measured)))
        if len(site.targets) > 1:
            replacing.share(self.model, [target.name for target in site.targets])
        # In float64 they are larger than the weights, and what follows takes as much again.
        fits.clear()
        return records

    def _record(
        self, target: Target, option: Option, site: Site, errors: tuple[float, float]
    ) -> TargetRecord:
        dense = target.out_features * target.in_features
        parts = structures.find(option.structure).tensors(site, option.size or 0)
        once = {id(part) for part in structures.stored_once(parts)}
        after = sum(
            part.entries
            for name, part in parts.items()
            if part.role == "matrix" and id(part) in once and name.startswith(f"{target.name}.")
        )
        return TargetRecord(
            name=target.name,
            out_features=target.out_features,
            in_features=target.in_features,
            option=option,
            site=site.name if len(site.targets) > 1 else None,
            parameters_before=dense,
            parameters_after=after,
            predicted_error=errors[0],
            measured_error=errors[1],
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
        """Make the model dense again, where `place` kept what was there."""
        for name, module in self._dense.items():
            put(self.model, name, module)
        self._dense.clear()


class _DenseProblem(Problem):
    """A dense weight with the metric and the decomposition that a bench has of it.

    Both are made when they are asked for: most of what stands in for a weight asks for no metric.
    """

    def __init__(self, bench: Bench, target: Target, bits: str | None, once: bool) -> None:
        weight = bench.weight(target.name)
        super().__init__(weight, linalg.Side(), linalg.Side(), bits=None if bits is None else BITS[bits])
        self._bench, self._target, self._once = bench, target, once
        self._asked: tuple[linalg.Side, linalg.Side] | None = None

    def sides(self) -> tuple[linalg.Side, linalg.Side]:
        self._asked = self._asked or self._bench.sides(self._target.name)
        return self._asked

    def solve(self, rank: int | None) -> linalg.Decomposition:
        return self._bench.decomposition(self._target, rank if self._once else None)
