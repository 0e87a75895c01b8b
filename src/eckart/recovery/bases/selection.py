"""Which bases an application needs: train their weights, drop the least important, and again, many times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from eckart import allocate
from eckart.model.text import Batch
from eckart.recovery.bases import importance
from eckart.recovery.bases.linear import BasisLinear
from eckart.recovery.objective import Objective
from eckart.types import Curve, Selection

WARMUP, REST = 0.05, 0.05
"""Shares of the steps before the first time that bases are dropped, and after the last."""

GRACE = 0.5
"""Share of the times after which additional bases are ranked with the others: they begin at nothing."""

POWERS = {"cubic": 3.0, "linear": 1.0}
"""Of what is left to go: after a share `t` of the times, `(1 − t)^power` of the way is still to go."""


class Selecting(TrainerCallback):
    """Drops bases on the way of a training run, until what is left fits a budget.

    Args:
        modules: by target name, in the order of `curves`.
        curves: what each target costs at each rank.
        budget: parameters that all of them may have in the end.
        seed: of probes.
    """

    def __init__(
        self,
        modules: Mapping[str, BasisLinear],
        curves: Sequence[Curve],
        budget: int,
        selection: Selection,
        seed: int = 0,
    ) -> None:
        self.modules, self.curves, self.budget, self.selection = modules, curves, budget, selection
        self.seed = seed
        self.dense = sum(curve.dense for curve in curves)
        self._ask: tuple[Objective, Any, Any, Batch] | None = None

    def watch(self, objective: Objective) -> Objective:
        """The same objective; its last batch is what a probe looks at."""

        def watched(model: Any, teacher: Any, batch: Batch) -> tuple[Tensor, int]:
            self._ask = objective, model, teacher, batch
            return objective(model, teacher, batch)

        return watched

    def allowance(self, done: float) -> int:
        """Parameters that the targets may have when a share `done` of the run is over."""
        power = POWERS[self.selection.prune_schedule]
        return int(self.budget + (self.dense - self.budget) * (1 - self._over(done)) ** power)

    def _over(self, done: float) -> float:
        """The share of the times that bases are dropped which is over then."""
        progress = min(max((done - WARMUP) / (1 - WARMUP - REST), 0.0), 1.0)
        # Rounding is not to make the last time come a step late.
        return int(progress * self.selection.prunes + 1e-9) / self.selection.prunes

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for module in self.modules.values():
            module.refresh()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.selection.importance == "fisher":
            importance.gather_squares(list(self.modules.values()))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        now, before = (
            self.allowance(step / state.max_steps) for step in (state.global_step, state.global_step - 1)
        )
        if now == before:
            return
        if self.selection.importance == "bsi":
            self._probe(state.global_step)
        self.drop(now, young=self._over(state.global_step / state.max_steps) <= GRACE)

    def drop(self, allowance: int, young: bool = False) -> None:
        """Drop the least important bases until the targets have no more parameters than this.

        Args:
            young: the additional bases have not learned enough to be compared: they stay, and do not count.
        """
        rank_by = (
            importance.magnitude if self.selection.importance == "magnitude" else importance.expected_loss
        )
        compared = []
        for module in self.modules.values():
            where = module.kept.clone()
            if young:
                where[module.pretrained :] = False
            compared.append(where)
        values = [
            rank_by(module)[where].double().cpu().numpy()
            for module, where in zip(self.modules.values(), compared, strict=True)
        ]
        chosen = _CHOICES[self.selection.scope](self.curves, values, allowance)
        for module, where, stay in zip(self.modules.values(), compared, chosen, strict=True):
            whole = torch.ones_like(module.kept)
            whole[where] = torch.from_numpy(stay).to(whole.device)
            module.keep(whole)

    def _probe(self, step: int) -> None:
        assert self._ask is not None
        objective, model, teacher, batch = self._ask

        def loss() -> Tensor:
            total, count = objective(model, teacher, batch)
            return total / count

        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        importance.probe(list(self.modules.values()), loss, generator)


_CHOICES = {"global": allocate.keep_best, "target": allocate.keep_share}


def ranks(modules: Mapping[str, BasisLinear], curves: Sequence[Curve]) -> list[int | None]:
    """The rank that each target came to; `None` where factors of that rank would not be smaller."""
    found = [module.rank for module in modules.values()]
    return [rank if rank < len(curve.costs) else None for rank, curve in zip(found, curves, strict=True)]
