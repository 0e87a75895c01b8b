"""The analysis of a whole model, or of one weight by itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from eckart import folders
from eckart.analysis import spectra, weights
from eckart.analysis.spectra import Spectra
from eckart.data import digest_of, is_built_in
from eckart.model import loading, portable
from eckart.model.targets import block_of, weight_of
from eckart.types import MAX_LENGTH, Analysis, Matrix, Target, Track, UsageError


@dataclass(frozen=True)
class Options:
    """How a model is analysed; each is described at `eckart.analyze`."""

    data: str | None = None
    fast: bool = False
    targets: Sequence[str] | None = None
    layers: str | None = None
    ranks: Sequence[int] | None = None
    samples: int | None = None
    max_length: int = MAX_LENGTH
    fields: str | None = None
    device: str = "cpu"
    cache: bool = True


def require_options(options: Options, out: Path | None, png: bool) -> None:
    """Raises UsageError where an option is wrong, or the folder could not be written."""
    _require_numbers(options.ranks, options.samples, options.max_length)
    loading.require_device(options.device)
    if png and out is None:
        raise UsageError("--png draws into a folder: give -o DIR")
    if png and find_spec("matplotlib") is None:
        raise UsageError('--png needs matplotlib: pip install "eckart[report]"')
    if out is not None:
        folders.refuse_existing(out)


def find_weights(model: Any, tokenizer: Any, options: Options) -> weights.WeightSource:
    """The weights of a folder, a hub id, `pocket`, or a loaded model.

    Raises:
        UsageError: there is no such model or target, or none of its weights has so high a rank as is named.
        EckartError: it cannot be read.
    """
    chosen = (options.targets, options.layers, options.data, options.fields)
    if isinstance(model, (str, Path)):
        source = weights.in_folder(model, *chosen, options.device)
    else:
        source = weights.in_memory(model, *chosen, tokenizer)
    largest = max(min(target.out_features, target.in_features) for target in source.found.targets)
    if options.ranks and min(options.ranks) > largest:
        raise UsageError(f"--ranks {min(options.ranks)}: no weight has more than {largest} singular values")
    return source


def analyze_model(
    source: weights.WeightSource, options: Options, track: Track
) -> tuple[Analysis, list[Spectra], dict[str, float]]:
    """All targets, one after the other.

    Returns:
        The analysis, the spectra of each target, and a shape, as `4096x4096` (out x in), to the mean seconds
        of such a weight, reading it too.

    Raises:
        EckartError: a weight cannot be read or decomposed, or the data give no token.
    """
    data, chosen, counted = options.data, source.found.targets, source.counted
    notes, inputs = source.notes, None
    if data is not None:
        inputs = weights.observe_inputs(source, options.samples, options.max_length, options.cache, track)
        notes = [*notes, *inputs.notes]
    found: list[Spectra] = []
    seconds: dict[str, list[float]] = {}
    for target in track(chosen, "analyzing", len(chosen)):
        begun = time.perf_counter()
        found.append(_analyze_target(source, target, options, inputs))
        shape = f"{target.out_features}x{target.in_features}"
        seconds.setdefault(shape, []).append(time.perf_counter() - begun)
    if source.folder is None:
        portable.roll(source.model)
    analysis = Analysis(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=source.name,
        architecture=type(source.model).__name__,
        parameters=counted.parameters,
        targets_parameters=sum(target.out_features * target.in_features for target in chosen),
        embedding_parameters=counted.embedding_parameters,
        bytes=source.bytes,
        tied=counted.tied,
        data=None if data is None else data if is_built_in(data) else Path(data).name,
        data_sha256=digest_of(data),
        tokens=None if inputs is None else inputs.sums.tokens,
        matrices=[each.matrix for each in found],
        sizes=spectra.uniform_sizes(
            chosen, found, counted.parameters, source.bytes, source.model.dtype.itemsize
        ),
        notes=notes,
    )
    return analysis, found, {shape: sum(taken) / len(taken) for shape, taken in seconds.items()}


def analyze_one(weight: Tensor | nn.Linear, fast: bool, ranks: Sequence[int] | None, device: str) -> Matrix:
    """One weight by itself.

    Raises:
        UsageError: it is no matrix of floats, or has no such ranks.
        EckartError: it has entries that are not finite, or cannot be decomposed.
    """
    _require_numbers(ranks, None, MAX_LENGTH)
    loading.require_device(device)
    matrix = weight.detach() if isinstance(weight, Tensor) else weight_of(weight)
    if matrix.ndim != 2 or not matrix.numel() or not matrix.is_floating_point():
        raise UsageError(f"a weight is a matrix of floats, not {matrix.dtype} of shape {tuple(matrix.shape)}")
    if ranks and min(ranks) > min(matrix.shape):
        raise UsageError(f"ranks {min(ranks)}: the weight has {min(matrix.shape)} singular values")
    return spectra.analyze_weight(matrix.to(device), ranks=ranks, fast=fast).matrix


def _analyze_target(
    source: weights.WeightSource, target: Target, options: Options, inputs: weights.ObservedInputs | None
) -> Spectra:
    """One target. When this returns its weight is given up: no two of them are in memory."""
    weight, dtype = source.weight(target)
    return spectra.analyze_weight(
        weight.to(options.device),
        target.name,
        block_of(source.model, target.name),
        ranks=options.ranks,
        fast=options.fast,
        inputs=None if inputs is None else inputs.of(target),
        dtype=dtype,
    )


def _require_numbers(ranks: Sequence[int] | None, samples: int | None, max_length: int) -> None:
    if ranks is not None and (not ranks or min(ranks) < 1):
        raise UsageError("--ranks are 1 or more" if ranks else "--ranks is empty")
    if (samples is not None and samples < 1) or max_length < 1:
        raise UsageError("--samples and --max-length are 1 or more")
