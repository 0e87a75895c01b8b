"""A look at a model's weights before anything is cut: spectra, what ranks keep, and what sizes would cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, overload

from torch import Tensor, nn

from eckart import checkpoint
from eckart.analysis import folder as analysis_folder
from eckart.analysis import spectra, subjects
from eckart.data import is_built_in
from eckart.model import loading, portable
from eckart.model.targets import block_of, weight_of
from eckart.types import MAX_LENGTH, Analysis, Matrix, Target, Track, UsageError, silent


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
    png: bool = ...,
    track: Track = ...,
) -> Analysis: ...
def analyze(
    model: Any,
    out: str | Path | None = None,
    *,
    fast: bool = False,
    ranks: Sequence[int] | None = None,
    device: str = "cpu",
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
        png: draw the main figures as PNG files too.
        track: shows progress.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    if isinstance(model, (Tensor, nn.Linear)):
        if given := [name for name, value in {"out": out, **options}.items() if value is not None]:
            raise UsageError(f"{given[0]} is of a model, and this is one weight")
        return _one(model, fast, ranks, device)
    return analyzed(model, out, fast=fast, ranks=ranks, device=device, **options).analysis


def analyzed(
    model: Any,
    out: str | Path | None = None,
    *,
    data: str | None = None,
    fast: bool = False,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    ranks: Sequence[int] | None = None,
    samples: int | None = None,
    max_length: int = MAX_LENGTH,
    fields: str | None = None,
    tokenizer: Any = None,
    device: str = "cpu",
    cache: bool = True,
    png: bool = False,
    track: Track = silent,
) -> Analyzed:
    """As `analyze` of a model, with the time that it took."""
    started = time.perf_counter()
    _check(ranks, samples, max_length)
    loading.require_device(device)
    if png and out is None:
        raise UsageError("--png draws into a folder: give -o DIR")
    if png and find_spec("matplotlib") is None:
        raise UsageError('--png needs matplotlib: pip install "eckart[report]"')
    if out is not None:
        checkpoint.refuse_existing(Path(out))
    if isinstance(model, (str, Path)):
        subject = subjects.in_folder(model, targets, layers, data, fields, device)
    else:
        subject = subjects.in_memory(model, targets, layers, data, fields, tokenizer)
    chosen, counted = subject.found.targets, subject.counted
    largest = max(min(target.out_features, target.in_features) for target in chosen)
    if ranks and min(ranks) > largest:
        raise UsageError(f"--ranks {min(ranks)}: no weight has more than {largest} singular values")
    notes = subject.notes
    seen = None
    if data is not None:
        seen = subjects.observed(subject, samples, max_length, cache, track)
        notes = [*notes, *seen.notes]
    looked: list[spectra.Looked] = []
    seconds: dict[str, list[float]] = {}
    for target in track(chosen, "analyzing", len(chosen)):
        begun = time.perf_counter()
        looked.append(_look(subject, target, ranks, fast, device, seen))
        shape = f"{target.out_features}x{target.in_features}"
        seconds.setdefault(shape, []).append(time.perf_counter() - begun)
    if subject.folder is None:
        portable.roll(subject.model)
    analysis = Analysis(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=subject.source,
        architecture=type(subject.model).__name__,
        parameters=counted.parameters,
        targets_parameters=sum(target.out_features * target.in_features for target in chosen),
        embedding_parameters=counted.embedding_parameters,
        bytes=subject.bytes,
        tied=counted.tied,
        data=None if data is None else data if is_built_in(data) else Path(data).name,
        data_sha256=None if data is None else checkpoint.file_digest(data),
        tokens=None if seen is None else seen.sums.tokens,
        matrices=[each.matrix for each in looked],
        sizes=spectra.sizes(chosen, looked, counted.parameters, subject.bytes, subject.model.dtype.itemsize),
        notes=notes,
    )
    if out is not None:
        analysis_folder.write(analysis, looked, Path(out), png)
    return Analyzed(
        analysis=analysis,
        out=None if out is None else str(out),
        seconds=time.perf_counter() - started,
        seconds_each={shape: sum(taken) / len(taken) for shape, taken in seconds.items()},
    )


def _look(
    subject: subjects.Subject,
    target: Target,
    ranks: Sequence[int] | None,
    fast: bool,
    device: str,
    seen: subjects.Seen | None,
) -> spectra.Looked:
    """One target. When this returns its weight is given up: no two of them are in memory."""
    weight, dtype = subject.weight(target)
    return spectra.look(
        weight.to(device),
        target.name,
        block_of(subject.model, target.name),
        ranks=ranks,
        fast=fast,
        inputs=None if seen is None else seen.inputs(target),
        dtype=dtype,
    )


def _one(weight: Tensor | nn.Linear, fast: bool, ranks: Sequence[int] | None, device: str) -> Matrix:
    """One weight by itself."""
    _check(ranks, None, MAX_LENGTH)
    loading.require_device(device)
    matrix = weight.detach() if isinstance(weight, Tensor) else weight_of(weight)
    if matrix.ndim != 2 or not matrix.numel() or not matrix.is_floating_point():
        raise UsageError(f"a weight is a matrix of floats, not {matrix.dtype} of shape {tuple(matrix.shape)}")
    if ranks and min(ranks) > min(matrix.shape):
        raise UsageError(f"ranks {min(ranks)}: the weight has {min(matrix.shape)} singular values")
    return spectra.look(matrix.to(device), ranks=ranks, fast=fast).matrix


def _check(ranks: Sequence[int] | None, samples: int | None, max_length: int) -> None:
    if ranks is not None and (not ranks or min(ranks) < 1):
        raise UsageError("--ranks are 1 or more" if ranks else "--ranks is empty")
    if (samples is not None and samples < 1) or max_length < 1:
        raise UsageError("--samples and --max-length are 1 or more")
