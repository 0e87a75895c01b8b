"""LASER: layers, matrices and ratios, each measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from eckart.types.shown import Shown


class Cell(BaseModel):
    """One model of a sweep: chosen weights replaced by truncated SVDs.

    Attributes:
        ratio: rank as a share of the smaller side; 1 for the dense model, the mean of those taken for what a
            search found.
        layers, targets: which weights, as `--layers` and `--targets` say it; empty for all.
        ranks: of each weight that is cut, by name.
        parameters: of the whole model, each cut weight stored in the cheaper of its factors and its product.
        keep: of the whole model, after / before.
        metric, value: the score.
        loss: nats a token, where the task has one.
        continuations: of each prompt, in their order.
        error: why there is no value.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    ratio: float
    layers: str
    targets: str
    ranks: dict[str, int]
    parameters: int
    keep: float
    metric: str | None = None
    value: float | None = None
    loss: float | None = None
    continuations: list[str] = []
    error: str | None = None


class Step(BaseModel):
    """One trial of the greedy search: one kind of matrix of one block at one ratio, on top of what was taken.

    Attributes:
        stack, block, kind: which matrix.
        ratio: rank as a share of the smaller side.
        parameters: of the whole model with it.
        value, loss: on the part of the data that the search looks at.
        taken: whether it stays.
        error: why there is no value.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    stack: str
    block: int
    kind: str
    ratio: float
    parameters: int
    value: float | None = None
    loss: float | None = None
    taken: bool = False
    error: str | None = None


class Sweep(Shown, BaseModel):
    """What `eckart sweep` finds, saved as `sweep.json`. It holds no clock and no path.

    Attributes:
        format_version: of this file.
        eckart, torch, transformers: the versions that did it.
        source: the model's name, without its folder.
        task: `None` where prompts alone were continued.
        metric: what scores are.
        lower_is_better: which way the metric is good.
        data: what the task read; a search chose on a part of it, and all other scores are of the rest.
        data_sha256: of the file.
        prompts: that each model continued.
        dense: the model as it is.
        cells: the grid.
        start: the dense model on the part of the data that the search looks at.
        steps: of the search, in order, on that part.
        found: what the search came to, measured on data that it did not look at.
        notes: what a reader should know.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    eckart: str
    torch: str
    transformers: str
    source: str
    task: str | None
    metric: str | None = None
    lower_is_better: bool = False
    data: str | None = None
    data_sha256: str | None = None
    prompts: list[str] = []
    dense: Cell
    cells: list[Cell] = []
    start: Cell | None = None
    steps: list[Step] = []
    found: Cell | None = None
    notes: list[str] = []

    def in_a_line(self) -> str:
        """How many models were tried, and what is best."""
        better = min if self.lower_is_better else max
        scored = [cell for cell in (self.dense, *self.cells, self.found) if cell and cell.value is not None]
        best = better(scored, key=lambda cell: cell.value or 0.0, default=None)
        said = "" if best is None else f"; best {self.metric} {best.value:.4g}, {_name(best, self)}"
        return f"{self.source}: {len(self.cells)} models beside the dense one{said}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each model."""
        head = ("model", "ratio", "layers", "targets", "parameters", "keep", self.metric or "value", "loss")
        rows = (
            (
                _name(cell, self),
                cell.ratio,
                cell.layers or "all",
                cell.targets or "all",
                cell.parameters,
                cell.keep,
                cell.error if cell.error else cell.value,
                cell.loss,
            )
            for cell in (self.dense, *self.cells, self.found)
            if cell is not None
        )
        return head, rows


def _name(cell: Cell, sweep: Sweep) -> str:
    if cell is sweep.dense:
        return "dense"
    return "found" if cell is sweep.found else f"{cell.ratio:g}:{cell.layers or 'all'}"


@dataclass(frozen=True)
class Sample:
    """What two models wrote behind one prompt; `before` is `None` where the dense one was not asked."""

    prompt: str
    before: str | None
    after: str
