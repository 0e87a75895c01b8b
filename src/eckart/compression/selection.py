"""Basis selection: weights into bases, training that drops them, and what is left into factors."""

from __future__ import annotations

from typing import Any

import torch

from eckart import linalg
from eckart.compression.bench import Bench
from eckart.compression.cuts import Cut
from eckart.estimate import budget
from eckart.recovery.bases import BasisLinear, Selecting, ranks
from eckart.recovery.runs import TrainingSetup, training_tokens
from eckart.recovery.settings import LENGTHS, Training
from eckart.structures import Site, put
from eckart.types import Recipe, Target, TargetRecord, TrainingRecord

_LENGTH: dict[str, Any] = dict.fromkeys(LENGTHS)
"""A training's length, not said."""


def select(bench: Bench, recipe: Recipe, setup: TrainingSetup) -> tuple[Cut, list[TrainingRecord]]:
    """Cut a model by basis selection (METHODS: Basis Selection, algorithm 1), and train what is left.

    Args:
        bench: a dense model in float32.
        recipe: with a `keep` and a `selection`.
    """
    assert recipe.selection is not None
    total = training_tokens(setup.examples.rows, setup.training)
    first, second = split(setup.training, total, recipe.selection.share)
    bases = Bases(bench, recipe, setup.training.seed)
    try:
        run = setup.run(
            bench.model,
            first,
            recipe.recovery,
            objective=bases.callback.watch(setup.objective),
            callbacks=[bases.callback],
            parameter_groups=bases.groups,
        )
    except BaseException:
        bases.restore()
        raise
    cut = Cut(bases.finish())
    return cut, [run, setup.recover(bench.model, second)[1]]


class Bases:
    """A model whose targets are sums of bases, on its way to a budget.

    The bases are those of the recipe's metric: plain singular vectors in the identity's, as in the paper.

    Args:
        bench: a dense model in float32; its targets' modules are replaced, and `finish` puts factors there.
        recipe: with a `keep` and a `selection`.
        seed: of the additional bases, and of probes.

    Attributes:
        callback: what drops bases while `recovery.training.train` runs.
    """

    def __init__(self, bench: Bench, recipe: Recipe, seed: int) -> None:
        assert recipe.selection is not None
        self.bench, self.selection = bench, recipe.selection
        self.curves = bench.costs()
        allowed = budget.require_possible(bench.sites, recipe, bench.prices)
        self.dense = {target.name: bench.model.get_submodule(target.name) for target in bench.targets}
        bench.model.requires_grad_(False)
        generator = torch.Generator().manual_seed(seed)
        self.modules = {
            target.name: self._install(target, generator)
            for target in bench.store.track(bench.targets, "decomposing", len(bench.targets))
        }
        self.callback = Selecting(self.modules, self.curves, allowed, self.selection, seed)

    def _install(self, target: Target, generator: torch.Generator) -> BasisLinear:
        weight, old = self.bench.weight(target.name).detach(), self.dense[target.name]
        solved = self.bench.decomposition(target, min(target.out_features, target.in_features))
        U, V = (factor.to(weight) for factor in solved.factors(weight, solved.basis.shape[1]))
        bias = None if old.bias is None else old.bias.detach()
        trained = self.selection.bases == "trained"
        module = BasisLinear(U, V, bias, self.selection.additional, generator, trained)
        self.bench.forget(Site((target,)))
        put(self.bench.model, target.name, module)
        return module

    def groups(self, model: Any) -> list[dict[str, Any]]:
        """The bases' weights have a learning rate of their own."""
        weights = [module.weights for module in self.modules.values()]
        return [{"params": weights, "lr": self.selection.weights_rate, "weight_decay": 0.0}]

    def restore(self) -> None:
        """Make the model dense again, as it came."""
        for name, module in self.dense.items():
            put(self.bench.model, name, module)
        self.bench.model.requires_grad_(True)

    def finish(self) -> list[TargetRecord]:
        """Put what is left of each target in its place: factors, or a dense weight where they do not pay."""
        records: list[TargetRecord] = []
        chosen = self.bench.prices.picked(self.curves, ranks(self.modules, self.curves))
        for site, option in zip(self.bench.sites, chosen, strict=True):
            (target,) = site.targets
            weight = self.modules[target.name].weight()
            put(self.bench.model, target.name, self.dense[target.name])
            if option.structure == "dense":
                self.bench.reweigh(target, weight, keep_dense=False)
            problem = linalg.Problem(weight, linalg.Side(), linalg.Side())
            placed = self.bench.place(site, option, [problem], keep_dense=False)
            # The factors stand for a weight that was trained: how far they are from the old one says nothing.
            unknown = {"predicted_error": None, "measured_error": None}
            records += [record.model_copy(update=unknown) for record in placed]
        return records


def split(training: Training, tokens: int, share: float) -> tuple[Training, Training]:
    """So many tokens of training as two: while bases are chosen, and after the last one has gone."""
    first = max(1, int(tokens * share))
    # The rate falls once, at the end of all.
    return (
        training.model_copy(update={**_LENGTH, "tokens": first, "schedule": "constant"}),
        training.model_copy(update={**_LENGTH, "tokens": max(1, tokens - first)}),
    )
