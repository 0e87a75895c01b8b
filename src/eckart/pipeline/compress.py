"""The main job: a pretrained model in, a smaller plain Hugging Face folder out."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eckart import checkpoint
from eckart.model import loading, probe, replacing, saving
from eckart.pipeline import choices
from eckart.pipeline.cutting import Prepared
from eckart.pipeline.selecting import select
from eckart.pipeline.training import Lessons, digest, fingerprint, texts_of, working
from eckart.recovery import learning, processes
from eckart.recovery.settings import Training, make_training
from eckart.types import (
    MAX_LENGTH,
    Bytes,
    Count,
    Manifest,
    Recipe,
    Result,
    Text,
    Track,
    UsageError,
    silent,
)

MANIFEST = "eckart.json"


def compress(
    model: Any,
    out: str | Path | None = None,
    *,
    keep: float | None = None,
    max_loss: float | None = None,
    energy: float | None = None,
    rank: int | None = None,
    ratio: float | None = None,
    of: str = "model",
    method: str | None = None,
    metric: str | None = None,
    structure: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    data: str | None = None,
    samples: int | None = None,
    max_length: int = MAX_LENGTH,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    cache: bool = True,
    training: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
    fields: str | None = None,
    resume: bool = False,
    merge: bool = False,
    track: Track = silent,
) -> Result:
    """Make a pretrained model smaller by replacing its weight matrices with low-rank structure.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model, which is changed in place.
        out: folder to save in; it must not exist. Without it the result is in memory only.
        keep: parameters after / parameters before, above 0 and at most 1. Or instead of it:
        max_loss: the smallest model whose loss on held-out data is at most this share above the dense
            model's; of an encoder, 1 − the correlation of its cosines with the dense one's at most; or
        energy: the least rank of each target that keeps this share of its energy in the metric; or
        rank: the same rank for every target; or
        ratio: rank as a share of each target's smaller side.
        of: whether `keep` counts over the whole `model` or over the `targets` alone.
        method: a row of the catalogue (`eckart methods`); default `auto`, the best we know. Where ranks are
            given by hand, `svd-llm` with data and `svd` without.
        metric, structure, allocation, recovery: the axes, where they should differ from the method's row.
        targets: endings of module names or globs; default every linear layer in the blocks.
        layers: which blocks, e.g. `top:4` or `3-7`; default all.
        data: a `.jsonl`, `.txt` or `.csv` file to calibrate on, or `pocket`, `pocket-math`, ….
        samples: windows of the data to calibrate on at most; default 512, and more of short ones, until
            there are 32,768 tokens.
        max_length: tokens in a window at most.
        tokenizer: for a loaded model with data; a folder brings its own.
        device: where to run, e.g. `cuda`.
        dtype: to load weights in; default as stored.
        cache: keep the moments on disk, and use those kept before (`$ECKART_CACHE`, default
            `~/.cache/eckart`).
        training: train on the data what the cut left, as `recover` does: its settings (`tokens`,
            `learning_rate`, …; see `recovery.settings.Training`). Basis selection always trains, an epoch
            unless told otherwise, and these are the settings of all of it. An encoder imitates itself as
            it was.
        selection: how bases are selected, where they are (see `types.Selection`).
        fields: which fields of the data are prompt and completion, by a comma.
        resume: go on with a training that was stopped, from its last checkpoint in `<out>.training`.
        merge: multiply the factors out at the end: a dense model as large as before, for tools that know no
            other.
        track: shows progress.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    started = time.perf_counter()
    recipe = choices.make_recipe(
        method=method,
        metric=metric,
        structure=structure,
        allocation=allocation,
        recovery=recovery,
        keep=keep,
        max_loss=max_loss,
        energy=energy,
        of=of,
        rank=rank,
        ratio=ratio,
        targets=targets,
        layers=layers,
        data=data,
        samples=samples,
        max_length=max_length,
        selection=selection,
    )
    if processes.world() > 1:
        raise UsageError(
            "compress is one process: start it without torchrun; a training is shared out by `eckart recover`"
        )
    settings = _settings(recipe, training, max_length)
    if resume and (settings is None or out is None):
        raise UsageError("--resume goes on with a training, and none was asked for, or nothing of it is kept")
    if out is not None:
        checkpoint.refuse_existing(Path(out))
    folder = loading.find_model(model) if isinstance(model, (str, Path)) else None
    if folder is not None:
        source = loading.name_of(model, folder)
        config = loading.load_config(folder)
        loading.refuse_compressed(config)
        stored = checkpoint.open_checkpoint(folder)
        if out is not None:
            checkpoint.refuse_full(Path(out), int(stored.nbytes * (recipe.keep or 1)))
        generates = loading.generates(config)
    else:
        loading.require_loaded(model)
        source = Path(getattr(model.config, "name_or_path", "")).name or type(model).__name__
        generates = model.can_generate()
    texts = _texts(recipe, settings, fields, generates)
    with _working(out, folder, recipe, settings, fields, resume) as work:
        if folder is not None:
            model = loading.load_model(folder, device, dtype)
            tokenizer = loading.load_tokenizer(folder) if texts or loading.has_tokenizer(folder) else None
        replacing.require_finite(model)
        lessons = None
        if settings is not None and work is not None:
            lessons = Lessons.of(model, tokenizer, recipe.data or "", texts, settings, work, resume, track)
        manifest = compress_in_place(
            model, tokenizer, recipe, texts, source, track, folder, cache, lessons, merge
        )
        if out is not None:
            save_folder(model, tokenizer, manifest, folder, Path(out))
    return Result(
        model=model,
        manifest=manifest,
        out=None if out is None else str(out),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _settings(recipe: Recipe, training: Mapping[str, Any] | None, max_length: int) -> Training | None:
    """How to train, where that was asked for or is a part of the method."""
    if training is None and recipe.selection is None:
        return None
    if recipe.data is None:
        raise UsageError("training needs something to learn from: give --data FILE")
    settings = make_training(**{"max_length": max_length, **(training or {})})
    if settings.by_peft:
        raise UsageError(
            f"--train {settings.train}: adapters come after the cut, by `eckart recover OUT --train "
            f"{settings.train}`"
        )
    return settings


def _texts(recipe: Recipe, settings: Training | None, fields: str | None, generates: bool) -> list[Any]:
    """Read the data before anything heavy starts: a broken row should cost nobody a model load."""
    if recipe.data is None or not (settings or choices.needs_data(recipe)):
        return []
    return texts_of(recipe.data, generates, fields, tokens=settings.tokens if settings else None)


@contextmanager
def _working(
    out: str | Path | None,
    folder: Path | None,
    recipe: Recipe,
    settings: Training | None,
    fields: str | None,
    resume: bool,
) -> Iterator[Path | None]:
    """Where checkpoints go while a model is trained: beside `out`, so that a run can be gone on with."""
    if settings is None:
        yield None
    elif out is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
    else:
        request = {
            "model": folder and fingerprint(folder),
            "data": [recipe.data, digest(recipe.data or ""), fields],
            **recipe.model_dump(mode="json", exclude={"data"}),
            **settings.model_dump(),
        }
        work = Path(f"{out}.training")
        with working(work, request, resume):
            yield work


def compress_in_place(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    texts: Sequence[Text],
    source: str,
    track: Track,
    folder: Path | None,
    cache: bool,
    lessons: Lessons | None,
    merge: bool = False,
) -> Manifest:
    """Cut a loaded model and, with lessons, train what is left; what was done, for its manifest.

    Args:
        texts: what to calibrate on.
        source: the model's name.
        folder: where it was loaded from; moments are kept on disk for it, if `cache`.
        merge: whether the factors are multiplied out again.
    """
    before, bytes_before = replacing.count_parameters(model), replacing.count_bytes(model)
    if lessons:
        model.float()
    prepared = Prepared(model, tokenizer, recipe, texts, track, folder=folder, cache=cache)
    if lessons and recipe.selection is not None:
        cut, runs = select(prepared.bench, recipe, lessons)
    else:
        cut, runs = prepared.cut(recipe), []
        if lessons:
            runs.append(lessons.recover(model)[1])
            cut = cut.trained()
    if lessons:
        learning.cast(model, model.config)
    if merge:
        replacing.merge(model)
        cut = cut.merged()
    replacing.describe(model)
    after = replacing.count_parameters(model)
    return Manifest(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=source,
        recipe=recipe.model_copy(update={"data": recipe.data and Path(recipe.data).name}),
        data_sha256=None if recipe.data is None else digest(recipe.data),
        calibration_tokens=prepared.tokens,
        parameters=Count(
            before=before,
            after=after,
            keep=after / before,
            targets_before=sum(record.parameters_before for record in cut.records),
            targets_after=sum(record.parameters_after for record in cut.records),
        ),
        bytes=Bytes(before=bytes_before, after=replacing.count_bytes(model)),
        targets=cut.records,
        held_out=cut.held_out,
        training=runs,
        merged=merge,
        notes=prepared.notes + cut.notes,
    )


def save_folder(model: Any, tokenizer: Any, manifest: Manifest, folder: Path | None, out: Path) -> None:
    """Write a model and its manifest, whose probe and files are filled in, into a new folder.

    Args:
        tokenizer: saved beside it, unless `folder`, that the model was loaded from, brings its own.
    """
    count = manifest.parameters
    summary = (
        f"Made by Eckart {manifest.eckart} with method `{manifest.recipe.method}`: {count.after:,} of "
        f"{count.before:,} parameters ({count.keep:.1%})."
    )
    for run in manifest.training:
        summary += f" Then trained for {run.steps:,} steps, {run.tokens:,} tokens."
    save = saving.save_merged if manifest.merged else saving.save_model
    with checkpoint.appearing(out) as temporary:
        save(model, temporary, manifest.source, summary)
        if tokenizer is not None and folder is None:
            tokenizer.save_pretrained(temporary)
        if folder is not None:
            checkpoint.copy_companions(folder, temporary)
        manifest.probe = probe.take_probe(model)
        files = [*checkpoint.open_checkpoint(temporary).files]
        if not manifest.merged:
            files.append(temporary / f"{saving.MODELING_FILE}.py")
        manifest.files = {path.name: checkpoint.sha256(path) for path in files}
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
