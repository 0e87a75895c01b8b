"""Two models timed in turns, phase by phase, and what each takes of memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from eckart.evaluation import alone, speed
from eckart.model import building, loading, replacing
from eckart.model.fusing import fuse as fuse_
from eckart.structures import FactoredLinear, StructuredLinear
from eckart.types import Memory, Pace, Track, UsageError

COUNTERPART = "its dense counterpart"
Phase = Literal["prefill", "decode"]


@dataclass(frozen=True)
class Workload:
    """What both models are given to do.

    Attributes:
        batches: sequences at once; all is measured for each.
        tokens: in a prompt, and in the cache when writing begins.
        new: tokens written in a round.
        rounds: each is both models once.

    Raises:
        UsageError: a number below 1, or no batch.
    """

    batches: Sequence[int]
    tokens: int
    new: int
    rounds: int

    def __post_init__(self) -> None:
        for option, value in (
            ("--prompt", self.tokens),
            ("--new", self.new),
            ("--rounds", self.rounds),
            *(("--batch", batch) for batch in self.batches),
        ):
            if value < 1:
                raise UsageError(f"{option} {value}: it is 1 or more")
        if not self.batches:
            raise UsageError("--batch: no number of sequences was given")


class ModelPair:
    """A loaded model and another one beside it, or one model by itself.

    Args:
        folder: of the model.
        against: of the other; without it a compressed model has its dense counterpart, with random weights.
        device, dtype: to run on and in.
        fuse: compute one `V` for what reads the same input.
        drop_unused: read models without tensors that their classes have no weight for.

    Attributes:
        model, other: on the device, the other one `None` where there is none.
        factored: the modules that hold factors, and what stands in their places in the other.
        notes: what a reader should know.
    """

    def __init__(
        self,
        folder: Path,
        against: Path | None,
        device: str,
        dtype: str,
        fuse: bool = False,
        drop_unused: bool = False,
    ) -> None:
        self.notes: list[str] = []
        self.folder, self.against = folder, against
        self.read_as = {"device": device, "dtype": dtype, "drop_unused": drop_unused}
        self.other: Any = None
        with loading.dropping(drop_unused):
            self.model = loading.load_model(folder, device, dtype)
            if against is not None:
                self.other = loading.load_model(against, device, dtype)
            elif building.is_compressed(loading.load_config(folder)):
                self.other = loading.build_dense(folder, device, dtype)
        self.factored = self._factored()
        if fuse:
            for each in (self.model, self.other):
                if each is not None and any(isinstance(m, FactoredLinear) for m in each.modules()):
                    fuse_(each)
        self.run, self.run_other = self.model, self.other
        self.compiled = False

    @property
    def device(self) -> torch.device:
        """Where both are."""
        found: torch.device = self.model.device
        return found

    @property
    def phases(self) -> list[Phase]:
        """What both models can do."""
        both = all(speed.decodes(each) for each in (self.model, self.other) if each is not None)
        return ["prefill", "decode"] if both else ["prefill"]

    def require_room(self, tokens: int) -> None:
        """Raises UsageError where a model has fewer positions than that."""
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and tokens > longest:
            raise UsageError(
                f"{tokens} tokens would be read and written, and the model has {longest} positions: lower "
                "--prompt, --new or --rounds"
            )

    def compile(self) -> None:
        """Let torch compile both, on a GPU into graphs."""
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self.run = torch.compile(self.model, mode=mode)
        self.run_other = None if self.other is None else torch.compile(self.other, mode=mode)
        self.compiled = True

    def paces(self, work: Workload, track: Track) -> list[Pace]:
        """Each phase of each batch: of the targets alone where there are some, and of the whole model."""
        wanted = [
            (of, phase, batch)
            for batch in work.batches
            for of in ("targets", "model")
            for phase in self.phases
        ]
        rows = []
        with torch.inference_mode():
            for of, phase, batch in track(wanted, "timing", len(wanted)):
                if of == "model":
                    rows.append(self._model_pace(phase, batch, work))
                elif self.factored:
                    rows.append(self._targets_pace(phase, batch, work))
        return rows

    def memory(self, batch: int, tokens: int) -> list[Memory]:
        """What each model takes, in a process of its own."""
        work = {**self.read_as, "batch": batch, "tokens": tokens}
        peak = alone.peak_in_subprocess(folder=str(self.folder), dense=False, **work)
        taken = [Memory(weights_bytes=replacing.count_bytes(self.model), peak_bytes=peak)]
        if self.other is not None:
            folder = str(self.against or self.folder)
            peak = alone.peak_in_subprocess(folder=folder, dense=self.against is None, **work)
            taken.append(Memory(weights_bytes=replacing.count_bytes(self.other), peak_bytes=peak))
        return taken

    def name_of_other(self, other: str | Path | None) -> str | None:
        """The name of the other model, as it was given, or what it is."""
        if other is not None and self.against is not None:
            return loading.name_of(other, self.against)
        return None if self.other is None else COUNTERPART

    def _targets_pace(self, phase: Phase, batch: int, work: Workload) -> Pace:
        """Of the factored modules alone, one after the other, beside what stands there in the other model."""
        length = work.tokens if phase == "prefill" else 1
        mine, others = zip(*self.factored, strict=True)
        ideal = sum(map(speed.entries, others)) / sum(map(speed.entries, mine))
        works = [speed.through(each, batch, length, self.device, self.model.dtype) for each in (mine, others)]
        pair = speed.paired(works[0], works[1], self.device, work.rounds)
        return _pace("targets", phase, batch, work.tokens, pair, ideal)

    def _model_pace(self, phase: Phase, batch: int, work: Workload) -> Pace:
        """Of the whole model, beside the other where there is one."""
        runs = [each for each in (self.run, self.run_other) if each is not None]
        tokens, new, rounds = work.tokens, work.new, work.rounds
        if phase == "prefill":
            works = [speed.prefill(each, batch, tokens) for each in runs]
        else:
            works = [speed.decode(each, batch, tokens, new, rounds, self.compiled) for each in runs]
        passes = 1 if phase == "prefill" else new
        if len(works) == 1:
            seconds = speed.alone(works[0], self.device, rounds)
            return _pace("model", phase, batch, tokens, speed.Paired(seconds, 0, 0), None, passes)
        ideal = speed.passed_through(self.other) / speed.passed_through(self.model)
        pair = speed.paired(works[0], works[1], self.device, rounds)
        return _pace("model", phase, batch, tokens, pair, ideal, passes)

    def _factored(self) -> list[tuple[nn.Module, nn.Module]]:
        if self.other is None:
            return []
        others = dict(self.other.named_modules())
        mine = {name: each for name, each in self.model.named_modules() if isinstance(each, StructuredLinear)}
        absent = [name for name in mine if name not in others]
        if absent:
            self.notes.append(
                f"targets are not timed alone: the other model has no {absent[0]}, so it is of another kind"
            )
            return []
        return [(module, others[name]) for name, module in mine.items()]


def _pace(
    of: Literal["targets", "model"],
    phase: Phase,
    batch: int,
    tokens: int,
    pair: speed.Paired,
    ideal: float | None,
    passes: int = 1,
) -> Pace:
    at_once = batch * (tokens if phase == "prefill" else 1)
    seconds, other = pair.seconds / passes, pair.other_seconds / passes
    return Pace(
        of=of,
        phase=phase,
        batch=batch,
        tokens=tokens,
        seconds=seconds,
        tokens_per_second=at_once / seconds,
        other_seconds=None if ideal is None else other,
        other_tokens_per_second=None if ideal is None else at_once / other,
        ratio=None if ideal is None else pair.ratio,
        ideal=ideal,
        of_ideal=None if ideal is None else pair.ratio / ideal,
    )
