"""Weights to be analysed, read from the disk one at a time or in memory; and their inputs on data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eckart import calibrate, checkpoint, linalg
from eckart.analysis.spectra import WeightInputs
from eckart.calibrate.observing import MomentCache, observe
from eckart.data import texts_of
from eckart.estimate import counting
from eckart.model import building, loading, reading, replacing, text, vocabulary
from eckart.model.targets import Found, find_targets, weight_of
from eckart.types import (
    SAMPLE_TOKENS,
    SAMPLES,
    EckartError,
    Target,
    Text,
    Track,
    UsageError,
)

ROWS = 256
"""Of what an input space reads, that cosines are averaged over."""
ROWS_TOKENS = 8192
"""Of the data, evenly spread, that these rows are taken from."""


@dataclass
class WeightSource:
    """The weights of one model.

    Attributes:
        model: loaded, or on the meta device where its weights are read from the disk.
        name: its name.
        found: its targets.
        counted: its sizes.
        notes: what a reader should know.
        folder: where it is from, if it is from one.
        stored: what its folder holds, where weights are read from there.
        names: the stored tensor of each weight.
        texts, tokenizer: the data, where there are some.
    """

    model: Any
    name: str
    found: Found
    counted: counting.Counted
    notes: list[str]
    folder: Path | None = None
    stored: checkpoint.Checkpoint | None = None
    names: dict[str, str] = field(default_factory=dict)
    texts: Sequence[Text] = ()
    tokenizer: Any = None

    @property
    def bytes(self) -> int:
        """Of the whole model in its own dtype."""
        # Heads that the config ties and the checkpoint stores apart are in no parameter on the meta device.
        more = self.counted.parameters - replacing.count_parameters(self.model)
        return replacing.count_bytes(self.model) + more * int(self.model.dtype.itemsize)

    def weight(self, target: Target) -> tuple[Tensor, str]:
        """A target's weight `(out, in)` and its dtype.

        Raises:
            EckartError: what is stored cannot be read, or is no matrix of floats of that shape.
        """
        module = self.model.get_submodule(target.name)
        if self.stored is None:
            weight = weight_of(module)
            return weight, str(weight.dtype).removeprefix("torch.")
        name = self.names[f"{target.name}.weight"]
        read = self.stored.read(name)
        if read.shape != module.weight.shape:
            raise EckartError(
                f"{self.folder} does not fit its config: {name} is stored as {tuple(read.shape)}, "
                f"and the config makes it {tuple(module.weight.shape)}"
            )
        if not read.is_floating_point():
            raise EckartError(
                f"{self.folder}: {name} is stored as {read.dtype}: a quantized weight has no spectrum"
            )
        dtype = str(read.dtype).removeprefix("torch.")
        # Eight bits are for storing: hardly anything computes with them.
        return reading.as_linear(module, read.float() if read.itemsize == 1 else read), dtype


def in_folder(
    model: str | Path,
    targets: Sequence[str] | None,
    layers: str | None,
    data: str | None,
    fields: str | None,
    device: str,
) -> WeightSource:
    """A model folder, a hub id or `pocket`: loaded where there are data, or where its weights ask for it.

    Raises:
        UsageError: there is no such model, it is not dense, or it has no such target.
        EckartError: what is there does not make a model, or the data cannot be read.
    """
    folder = loading.find_model(model)
    config = loading.load_config(folder)
    loading.refuse_compressed(config, "analyze")
    stored = checkpoint.open_checkpoint(folder)
    _settle_dtype(config, stored)
    try:
        empty = building.build_empty(config)
    except ValueError as error:
        raise EckartError(str(error)) from error
    found = find_targets(empty, targets, layers)
    counted = counting.count(folder, empty)
    names = reading.stored_names(empty, stored.tensors)
    texts, tokenizer = [], None
    if data is not None:
        texts = texts_of(data, loading.generates(config), fields)
        tokenizer = loading.load_tokenizer(folder)
    elsewhere = [target.name for target in found.targets if f"{target.name}.weight" not in names]
    notes = found.notes + counted.notes
    source = WeightSource(
        model=empty,
        name=loading.name_of(model, folder),
        found=found,
        counted=counted,
        notes=notes,
        folder=folder,
        stored=stored,
        names=names,
        texts=texts,
        tokenizer=tokenizer,
    )
    if data is None and not elsewhere:
        return source
    if elsewhere:
        source.notes.append(
            f"the whole model was loaded: {len(elsewhere)} weights, {elsewhere[0]} among them, are stored in "
            "another form than they are used in"
        )
    source.model, source.stored = loading.load_model(folder, device), None
    source.found = find_targets(source.model, targets, layers)
    replacing.require_finite(source.model)
    return source


def in_memory(
    model: Any,
    targets: Sequence[str] | None,
    layers: str | None,
    data: str | None,
    fields: str | None,
    tokenizer: Any,
) -> WeightSource:
    """A loaded transformers model.

    Raises:
        UsageError: it is none, it is not dense, it has no such target, or data come without a tokenizer.
    """
    loading.refuse_compressed(getattr(model, "config", None), "analyze")
    loading.require_loaded(model)
    if data is not None and tokenizer is None:
        raise UsageError("a loaded model with data needs its tokenizer too: pass tokenizer=")
    found = find_targets(model, targets, layers)
    counted = counting.count_loaded(model)
    texts = [] if data is None else texts_of(data, model.can_generate(), fields)
    return WeightSource(
        model=model,
        name=loading.name_of_loaded(model),
        found=found,
        counted=counted,
        notes=found.notes + counted.notes,
        texts=texts,
        tokenizer=tokenizer,
    )


@dataclass
class ObservedInputs:
    """What the targets read on the data.

    Attributes:
        sums: of the inputs.
        rows: a few of them, of each input space.
        notes: which targets no token reached.
    """

    sums: calibrate.Observed
    rows: dict[str, Tensor]
    notes: list[str]
    _side: tuple[str, linalg.Side] | None = None

    def of(self, target: Target) -> WeightInputs | None:
        """What a target reads; `None` where no token reached it."""
        space = self.sums.spaces.get(target.name)
        if space is None or space not in self.rows or space not in self.sums.moments:
            return None
        # Targets come in the model's order, so those of one space come together: one side is enough.
        if self._side is None or self._side[0] != space:
            try:
                self._side = space, linalg.Side.from_second_moment(self.sums.moments[space])
            except ValueError as error:
                raise EckartError(f"what {space} reads on the data cannot weigh it: {error}") from error
        return WeightInputs(self._side[1], self.rows[space])


def observe_inputs(
    source: WeightSource, samples: int | None, max_length: int, cache: bool, track: Track
) -> ObservedInputs:
    """Run the model on the data: second moments of all of it, and a few rows.

    Raises:
        EckartError: the data give no token, or a target reads something that is not finite.
    """
    limit, least = (samples, 0) if samples else (SAMPLES, SAMPLE_TOKENS)
    model, tokenizer = source.model, source.tokenizer
    windows = text.windows(model, tokenizer, source.texts, max_length, limit, least)
    chosen = [target.name for target in source.found.targets]
    names = [name for name in chosen if not vocabulary.is_embedding(model, name)]
    kinds = frozenset({"second"})
    sums = observe(
        model, tokenizer, windows, names, kinds, cache=MomentCache(cache, source.folder), track=track
    )
    rows = _rows(model, tokenizer, windows, list(sums.moments), track)
    unreached = [name for name in names if sums.spaces[name] not in rows]
    return ObservedInputs(sums, rows, [f"{name}: no token of the data reached it" for name in unreached])


def _rows(
    model: Any, tokenizer: Any, windows: Sequence[text.Window], spaces: Sequence[str], track: Track
) -> dict[str, Tensor]:
    tokens = sum(len(window.ids) for window in windows)
    count = min(len(windows), max(1, -(-len(windows) * ROWS_TOKENS // tokens)))
    some = [windows[at * len(windows) // count] for at in range(count)]
    try:
        return calibrate.sample(model, spaces, text.batches(model, tokenizer, some), ROWS, track)
    except calibrate.PaddingUnknownError:
        alone = text.batches(model, tokenizer, some, batch_tokens=1)
        return calibrate.sample(model, spaces, alone, ROWS, track)


def _settle_dtype(config: Any, stored: checkpoint.Checkpoint) -> None:
    """Where the config names no dtype, it is that of the weights, as for transformers."""
    if getattr(config, "dtype", None) is None:
        kinds = (tensor.dtype for tensor in stored.tensors.values())
        spelled = next((kind for kind in kinds if "F" in kind and kind in checkpoint.DTYPES), "F32")
        config.dtype = getattr(torch, checkpoint.DTYPES[spelled])
