"""How fast models are, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import BaseModel

from eckart.types.shown import Shown


class Pace(BaseModel):
    """One kind of work on one model, and on another one in the same rounds.

    Attributes:
        of: the whole `model`, or its `targets` alone: the modules that hold factors, one after the other.
        phase: `prefill` reads all tokens at once; `decode` writes one token after the other.
        batch: sequences at once.
        tokens: in each: those that are read, or that are in the cache when writing begins.
        seconds: of one pass over the batch, or of one token in each of its sequences; medians of the rounds.
        tokens_per_second: of the whole batch.
        other_seconds, other_tokens_per_second: of the other model.
        ratio: how many times as fast as the other model: the median over the rounds of their ratios.
        ideal: how many times as fast it would be if time went with parameters: the other's over this one's,
            of those that a token passes through. An embedding that is only looked up is not among them.
        of_ideal: `ratio / ideal`.
    """

    of: Literal["targets", "model"]
    phase: Literal["prefill", "decode"]
    batch: int
    tokens: int
    seconds: float
    tokens_per_second: float
    other_seconds: float | None = None
    other_tokens_per_second: float | None = None
    ratio: float | None = None
    ideal: float | None = None
    of_ideal: float | None = None


class Memory(BaseModel):
    """What one model takes.

    Attributes:
        weights_bytes: of its parameters, tied ones once, and buffers.
        peak_bytes: the most that a process of its own took that loads it and does the largest of the measured
            work: resident memory, or of a GPU what torch had allocated.
    """

    weights_bytes: int
    peak_bytes: int


class Race(Shown, BaseModel):
    """What `eckart bench` found.

    Attributes:
        model, other: their names; `other` is `None` where there was none to compare with.
        device, dtype: that they ran on and in.
        threads: of torch on the CPU.
        fused: whether one `V` was computed for what reads the same input (`eckart.fuse`).
        compiled: whether torch compiled both models.
        rounds: each is both models once.
        rows: what was measured.
        memory, other_memory: of each model.
        notes: what a reader should know.
    """

    model: str
    other: str | None
    device: str
    dtype: str
    threads: int
    fused: bool
    compiled: bool
    rounds: int
    rows: list[Pace]
    memory: Memory | None = None
    other_memory: Memory | None = None
    notes: list[str] = []

    def in_a_line(self) -> str:
        """What ran beside what, where."""
        beside = f" beside {self.other}" if self.other else ""
        return f"{self.model}{beside}: {self.device}, {self.dtype}, medians of {self.rounds} rounds"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each thing that was timed."""
        head = ("of", "phase", "batch", "tokens/s", "times as fast", "ideal")
        rows = (
            (row.of, row.phase, row.batch, row.tokens_per_second, row.ratio, row.ideal) for row in self.rows
        )
        return head, rows
