"""How fast a compressed model is beside another one, and what each takes of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from eckart.evaluation import alone, speed
from eckart.model import loading, replacing
from eckart.model.fusing import fuse as fuse_
from eckart.structures import FactoredLinear, StructuredLinear
from eckart.types import Memory, Pace, Race, Track, UsageError, silent

BATCHES = (1,)
TOKENS, NEW, ROUNDS = 256, 16, 7
COUNTERPART = "its dense counterpart"
Phase = Literal["prefill", "decode"]


def bench(
    model: str | Path,
    other: str | Path | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    tokens: int = TOKENS,
    new: int = NEW,
    rounds: int = ROUNDS,
    device: str = "cpu",
    dtype: str = "auto",
    fuse: bool = False,
    compiled: bool = False,
    memory: bool = True,
    track: Track = silent,
) -> Race:
    """Time a model beside another: reading a prompt, and writing token by token, in turns.

    Of a compressed model its targets are timed alone too: the modules that hold factors, one after the other.

    Args:
        model: a folder, a hub id, or `pocket`.
        other: what to compare it with. Default for a compressed model: the same architecture, dense, with
            random weights, whose time is that of the model that it was made from. A dense model is timed by
            itself.
        batches: sequences at once; all is measured for each.
        tokens: in a prompt, and in the cache when writing begins.
        new: tokens written in a round, of which the time of one is reported.
        rounds: each is both models once; medians are reported.
        device, dtype: to run on and in; default as stored.
        fuse: compute one `V` for what reads the same input, as `eckart.fuse` does.
        compiled: compile both models by torch, on a GPU with its graphs, so that starting kernels costs
            nothing.
        memory: whether the peak memory is measured too, which loads each model once more in a process of
            its own.

    Raises:
        UsageError: the request is wrong.
        EckartError: a model cannot be loaded.
    """
    _check(batches, tokens, new, rounds)
    folder = loading.find_model(model)
    against = None if other is None else loading.find_model(other)
    race = _Race(folder, against, device, dtype, fuse)
    race.require_room(speed.longest(tokens, new, rounds))
    if compiled:
        race.compile()
    wanted = [(of, phase, batch) for batch in batches for of in ("targets", "model") for phase in race.phases]
    rows = []
    with torch.inference_mode():
        for of, phase, batch in track(wanted, "timing", len(wanted)):
            if of == "model":
                rows.append(race.model_pace(phase, batch, tokens, new, rounds, compiled))
            elif race.factored:
                rows.append(race.targets_pace(phase, batch, tokens, rounds))
    taken = race.memory(str(folder), against, device, dtype, max(batches), tokens) if memory else [None]
    return Race(
        model=loading.name_of(model, folder),
        other=race.name_of_other(other, against),
        device=str(race.device),
        dtype=str(race.model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        fused=fuse,
        compiled=compiled,
        rounds=rounds,
        rows=rows,
        memory=taken[0],
        other_memory=taken[1] if len(taken) > 1 else None,
        notes=race.notes,
    )


class _Race:
    """Two loaded models, or one.

    Attributes:
        model, other: on the device, the other one `None` where there is none.
        factored: the modules that hold factors, and what stands in their places in the other.
    """

    def __init__(self, folder: Path, against: Path | None, device: str, dtype: str, fuse: bool) -> None:
        self.notes: list[str] = []
        self.model = loading.load_model(folder, device, dtype)
        self.other: Any = None
        if against is not None:
            self.other = loading.load_model(against, device, dtype)
        elif loading.is_compressed(loading.load_config(folder)):
            self.other = loading.build_dense(folder, device, dtype)
        self.factored = self._factored()
        if fuse:
            for each in (self.model, self.other):
                if each is not None and any(isinstance(m, FactoredLinear) for m in each.modules()):
                    fuse_(each)
        self.run, self.run_other = self.model, self.other

    @property
    def device(self) -> torch.device:
        found: torch.device = self.model.device
        return found

    @property
    def phases(self) -> list[Literal["prefill", "decode"]]:
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

    def targets_pace(self, phase: Phase, batch: int, tokens: int, rounds: int) -> Pace:
        """Of the factored modules alone, one after the other, beside what stands there in the other model."""
        length = tokens if phase == "prefill" else 1
        mine, others = zip(*self.factored, strict=True)
        ideal = sum(map(speed.entries, others)) / sum(map(speed.entries, mine))
        works = [speed.through(each, batch, length, self.device, self.model.dtype) for each in (mine, others)]
        pair = speed.paired(works[0], works[1], self.device, rounds)
        return _pace("targets", phase, batch, tokens, pair, ideal)

    def model_pace(self, phase: Phase, batch: int, tokens: int, new: int, rounds: int, static: bool) -> Pace:
        """Of the whole model, beside the other where there is one."""
        runs = [each for each in (self.run, self.run_other) if each is not None]
        if phase == "prefill":
            works = [speed.prefill(each, batch, tokens) for each in runs]
        else:
            works = [speed.decode(each, batch, tokens, new, rounds, static) for each in runs]
        passes = 1 if phase == "prefill" else new
        if len(works) == 1:
            seconds = speed.alone(works[0], self.device, rounds)
            return _pace("model", phase, batch, tokens, speed.Paired(seconds, 0, 0), None, passes)
        ideal = speed.passed_through(self.other) / speed.passed_through(self.model)
        pair = speed.paired(works[0], works[1], self.device, rounds)
        return _pace("model", phase, batch, tokens, pair, ideal, passes)

    def memory(
        self, folder: str, against: Path | None, device: str, dtype: str, batch: int, tokens: int
    ) -> list[Memory]:
        """What each model takes, in a process of its own."""
        work = {"device": device, "dtype": dtype, "batch": batch, "tokens": tokens}
        taken = [_memory(self.model, alone.asked(folder=folder, dense=False, **work))]
        if self.other is not None:
            peak = alone.asked(folder=str(against or folder), dense=against is None, **work)
            taken.append(_memory(self.other, peak))
        return taken

    def name_of_other(self, other: str | Path | None, against: Path | None) -> str | None:
        """Its name, or what it is."""
        if other is not None and against is not None:
            return loading.name_of(other, against)
        return None if self.other is None else COUNTERPART

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


def _memory(model: Any, peak: int) -> Memory:
    return Memory(weights_bytes=replacing.count_bytes(model), peak_bytes=peak)


def _check(batches: Sequence[int], tokens: int, new: int, rounds: int) -> None:
    for option, value in (
        ("--prompt", tokens),
        ("--new", new),
        ("--rounds", rounds),
        *(("--batch", b) for b in batches),
    ):
        if value < 1:
            raise UsageError(f"{option} {value}: it is 1 or more")
    if not batches:
        raise UsageError("--batch: no number of sequences was given")
