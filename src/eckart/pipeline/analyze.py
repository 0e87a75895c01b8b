"""Spectra of a model's weights before anything is cut, what ranks keep, and what sizes would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from eckart.analysis import folder, whole
from eckart.evaluation.machine import Stopwatch
from eckart.evaluation.progress import shown
from eckart.model import loading
from eckart.recipes import verbs
from eckart.recipes.calling import checked
from eckart.types import Analysis, Matrix, Track, UsageError


@dataclass(frozen=True)
class Analyzed:
    """What `analyze` gives the command line.

    Attributes:
        out: the folder that was written, if one was asked for.
        seconds: wall time.
        seconds_each: a shape, as `4096x4096` (out x in), to the mean time of such a weight, reading it too.
    """

    analysis: Analysis
    out: str | None
    seconds: float
    seconds_each: dict[str, float]


@overload
def analyze(
    model: Tensor | nn.Linear, *, fast: bool = ..., ranks: Sequence[int] | None = ..., device: str = ...
) -> Matrix: ...
@overload
def analyze(
    model: Any,
    out: str | Path | None = ...,
    *,
    data: str | None = ...,
    fast: bool = ...,
    targets: Sequence[str] | None = ...,
    layers: str | None = ...,
    ranks: Sequence[int] | None = ...,
    samples: int | None = ...,
    max_length: int = ...,
    fields: str | None = ...,
    tokenizer: Any = ...,
    device: str = ...,
    cache: bool = ...,
    drop_unused: bool = ...,
    png: bool = ...,
    track: Track = ...,
) -> Analysis: ...
@checked(verbs.Analyze)
def analyze(
    model: Any,
    out: str | Path | None = None,
    *,
    fast: bool = False,
    ranks: Sequence[int] | None = None,
    device: str = "cpu",
    tokenizer: Any = None,
    track: Track = shown,
    **options: Any,
) -> Analysis | Matrix:
    """Say which weights of a model are low-rank, and what a cut would come to.

    Without data the model is not loaded: its weights are read from the disk one at a time.

    Args:
        model: a dense folder of any dtype, a hub id, `pocket`, or a loaded transformers model, which is left
            as it is. Or one weight, `(out, in)`, as a tensor or a linear layer: then a `Matrix` comes back,
            and of the options below `fast`, `ranks` and `device` are there.
        out: a folder for `analysis.json`, tables and `report.html`; it must not exist.
        data: a `.jsonl`, `.txt` or `.csv` file, or `pocket`, …: the spectra as the data weigh them too.
        fast: find a sixteenth of the singular values, the largest (64 at least), by a random subspace.
        targets: endings of module names or globs; default every linear layer in the blocks.
        layers: which blocks, e.g. `top:4` or `3-7`; default all.
        ranks: that cosines are given at; default an eighth, a quarter, a half and three quarters of the
            smaller side.
        samples: windows of the data to observe at most; default 512, and more of short ones.
        max_length: tokens in a window at most.
        fields: which fields of the data are prompt and completion, by a comma.
        tokenizer: for a loaded model with data; a folder brings its own.
        device: where to compute, e.g. `cuda`.
        cache: keep what was observed of the data on disk, and use what was kept before.
        drop_unused: read the model without tensors that its class has no weight for, instead of refusing.
        png: draw the main figures as PNG files too.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    if isinstance(model, (Tensor, nn.Linear)):
        if given := [name for name, value in {"out": out, **options}.items() if value is not None]:
            raise UsageError(f"{given[0]} is of a model, and this is one weight")
        return whole.analyze_one(model, fast, ranks, device)
    found = analyzed(
        model, out, fast=fast, ranks=ranks, device=device, tokenizer=tokenizer, track=track, **options
    )
    return found.analysis


def analyzed(
    model: Any,
    out: str | Path | None = None,
    *,
    tokenizer: Any = None,
    png: bool = False,
    drop_unused: bool = False,
    track: Track = shown,
    **options: Any,
) -> Analyzed:
    """As `analyze` of a model, with the time that it took.

    Args:
        options: the fields of `analysis.whole.Options`.
    """
    watch = Stopwatch()
    chosen = whole.Options(**options)
    whole.require_options(chosen, None if out is None else Path(out), png)
    with loading.dropping(drop_unused):
        source = whole.find_weights(model, tokenizer, chosen)
    analysis, spectra, seconds_each = whole.analyze_model(source, chosen, track)
    if out is not None:
        folder.write(analysis, spectra, Path(out), png)
    return Analyzed(analysis, None if out is None else str(out), watch.seconds(), seconds_each)
