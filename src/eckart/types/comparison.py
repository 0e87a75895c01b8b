"""Many methods under one protocol."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from eckart.types.shown import Shown


class ComparisonRow(BaseModel):
    """One model of a comparison: what it is, how well it does the task, and what it cost to make.

    Attributes:
        method: `dense`, or a row of the catalogue, with values on the axes after colons where they differ
            from the row's.
        keep, of: as asked for; counted over the whole model or over the targets, as `of` says.
        quantize: what its targets are rounded to.
        parameters, targets_parameters: counted from the modules, of the whole model and of the targets alone.
        bytes: of the tensors that are saved.
        task: as `eckart evaluate` names it.
        metric, value: the score.
        loss: nats a token, where the task has one.
        divergence: the mean of `KL(dense ‖ model)` over tokens of what the task reads, in nats; of the task
            `perplexity`.
        same_top: the share of those tokens where both find the same one likeliest.
        seconds: from a loaded dense model to this one: calibrating, decomposing and cutting, and not the
            measurement. What several sizes of a method share counts for each of them: its decompositions too,
            which are made for all ranks that pay, where `compress` may stop at the one it needs.
        peak_memory_bytes: the largest resident size of the method's process (of this machine's memory, not of
            a GPU's) up to the end of this cut, measurements excluded where the system can tell. The dense
            weights and what was decomposed are kept for the next size, so it never falls from one size to the
            next.
        error: why there is no value; what was not reached is `None`.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    method: str
    keep: float
    of: Literal["model", "targets"]
    quantize: str | None = None
    parameters: int | None = None
    targets_parameters: int | None = None
    bytes: int | None = None
    task: str
    metric: str | None = None
    value: float | None = None
    loss: float | None = None
    divergence: float | None = None
    same_top: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


@dataclass(repr=False)
class Comparison(Shown):
    """What `eckart.compare` gives back.

    Attributes:
        out: the folder, with `results.csv` and `compare.json` in it.
        rows: all that the folder holds, the dense model first.
        notes: what a reader of the rows should know.
        lower_is_better: which way the task's metric is good.
    """

    out: str
    rows: list[ComparisonRow]
    notes: list[str]
    lower_is_better: bool

    def in_a_line(self) -> str:
        """How many models, and by what."""
        dense = self.rows[0]
        better = "lower" if self.lower_is_better else "higher"
        return f"{self.out}: {len(self.rows)} models by {dense.metric or dense.task}, {better} is better"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each model."""
        names = (
            "method",
            "keep",
            "parameters",
            "bytes",
            "value",
            "divergence",
            "same_top",
            "seconds",
            "error",
        )
        titles = {"value": self.rows[0].metric or "value", "same_top": "same top token", "error": "failed"}
        moved = any(row.divergence is not None for row in self.rows)
        shown = [name for name in names if moved or name not in ("divergence", "same_top")]
        head = tuple(titles.get(name, name) for name in shown)
        return head, (tuple(getattr(row, name) for name in shown) for row in self.rows)
