"""The main job: a pretrained model in, a smaller plain Hugging Face folder out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eckart import checkpoint, structures
from eckart.compression import rounding as quantizing
from eckart.compression.blocks import Job, settled
from eckart.compression.loaded import Loaded, compress_loaded
from eckart.compression.saving import save_folder
from eckart.data import texts_of
from eckart.estimate.gains import slower
from eckart.evaluation.machine import peak_memory_bytes
from eckart.model import loading, replacing
from eckart.recipes import making
from eckart.recovery import processes
from eckart.recovery.runs import TrainingSetup, working_folder
from eckart.recovery.settings import Training, make_training
from eckart.types import (
    MAX_LENGTH,
    Manifest,
    Recipe,
    Result,
    Track,
    UsageError,
    silent,
)


def compress(
    model: Any,
    out: str | Path | None = None,
    *,
    keep: float | None = None,
    max_loss: float | None = None,
    energy: float | None = None,
    rank: int | None = None,
    ratio: float | None = None,
    size: int | None = None,
    of: str = "model",
    method: str | None = None,
    metric: str | None = None,
    structure: str | None = None,
    allocation: str | None = None,
    recovery: str | None = None,
    quantize: str | None = None,
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
    blocks: bool | None = None,
    memory: int | None = None,
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
        ratio: rank as a share of each target's smaller side; or
        size: bytes of the saved weights, at most.
        of: whether `keep` counts over the whole `model` or over the `targets` alone.
        method: a row of the catalogue (`eckart methods`); default `auto`, the best we know. Where ranks are
            given by hand, `svd-llm` with data and `svd` without.
        metric, structure, allocation, recovery: the axes, where they should differ from the method's row.
        quantize: round the factors, and the targets that stay dense, to `int8` or `int4` by torchao.
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
        resume: go on with what was stopped: a training from its last checkpoint in `<out>.training`, a block
            walk from the pieces in `<out>.work` that were finished.
        blocks: whether one block of the model at a time is in memory (`True`) or all of it (`False`); default
            as fits. Block by block needs a folder or a hub id, `out`, and a cut without training.
        memory: bytes that may be taken; default what is free.
        merge: multiply the factors out at the end: a dense model as large as before, for tools that know no
            other.
        track: shows progress.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    started = time.perf_counter()
    recipe = making.make_recipe(
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
        size=size,
        quantize=quantize,
        targets=targets,
        layers=layers,
        data=data,
        samples=samples,
        max_length=max_length,
        selection=selection,
    )
    if processes.world() > 1:
        if blocks is False:
            raise UsageError("--whole is one process: several share a model block by block")
        blocks = True
    quantizing.require_possible(recipe.quantize, merge)
    settings = _settings(recipe, training, max_length)
    if (done := _done(out, resume)) is not None:
        return Result(None, done, str(out), time.perf_counter() - started, peak_memory_bytes())
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
    whole: list[str] = []
    if _may_walk(folder, out, settings, merge, blocks):
        assert folder is not None
        job = Job(folder, source, Path(str(out)), recipe, texts, device, dtype, blocks, memory)
        manifest = job.run(lambda: _request(folder, recipe, settings, fields), resume, track, whole)
        if manifest is not None:
            seconds = time.perf_counter() - started
            said = _slower(manifest, loading.dtype_of(config, dtype), device)
            return Result(None, manifest, str(out), seconds, peak_memory_bytes(), job.clock.seconds, said)
    if resume and settings is None:
        raise UsageError(f"--resume: nothing of {out} was begun that can be gone on with")
    with _working(out, folder, recipe, settings, fields, resume) as work:
        if folder is not None:
            model = loading.load_model(folder, device, dtype)
            tokenizer = loading.load_tokenizer(folder) if texts or loading.has_tokenizer(folder) else None
        replacing.require_finite(model)
        setup = None
        if settings is not None and work is not None:
            setup = TrainingSetup.before_cut(
                model, tokenizer, recipe.data or "", texts, settings, work, resume, track
            )
        loaded = Loaded(model, tokenizer, source, folder, cache)
        manifest = compress_loaded(loaded, recipe, texts, setup, merge, track)
        manifest.notes += whole
        if out is not None:
            save_folder(model, tokenizer, manifest, folder, Path(out))
    return Result(
        model=model,
        manifest=manifest,
        out=None if out is None else str(out),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
        warnings=_slower(manifest, model.dtype, str(model.device)),
    )


def _slower(manifest: Manifest, dtype: torch.dtype, device: str) -> list[str]:
    """Which layers gained no speed. It is what this machine measured, so the manifest does not hold it."""
    return [] if manifest.merged or manifest.recipe.quantize else slower(manifest.targets, dtype, device)


def _settings(recipe: Recipe, training: Mapping[str, Any] | None, max_length: int) -> Training | None:
    """How to train, where that was asked for or is a part of the method."""
    if training is None and recipe.selection is None:
        return None
    if recipe.data is None:
        raise UsageError("training needs something to learn from: give --data FILE")
    for name in recipe.structures:
        if "training" not in structures.find(name).supports:
            raise UsageError(f"{name} is quantized as it is made, and whole numbers cannot be trained")
    settings = make_training(**{"max_length": max_length, **(training or {})})
    if settings.by_peft:
        raise UsageError(
            f"--train {settings.train}: adapters come after the cut, by `eckart recover OUT --train "
            f"{settings.train}`"
        )
    return settings


def _texts(recipe: Recipe, settings: Training | None, fields: str | None, generates: bool) -> list[Any]:
    """Read the data before anything heavy starts: a broken row should cost nobody a model load."""
    if recipe.data is None or not (settings or making.needs_data(recipe)):
        return []
    return texts_of(recipe.data, generates, fields, tokens=settings.tokens if settings else None)


def _done(out: str | Path | None, resume: bool) -> Manifest | None:
    """The manifest of a run that had come to its end when it was stopped.

    Raises:
        UsageError: something else is at `out`, or there is nowhere to go on from.
    """
    if out is None:
        if resume:
            raise UsageError("--resume goes on with what was kept beside the output folder: give out")
        return None
    done = settled(Path(out)) if resume else None
    if done is None:
        checkpoint.refuse_existing(Path(out))
    return done


def _may_walk(
    folder: Path | None,
    out: str | Path | None,
    settings: Training | None,
    merge: bool,
    blocks: bool | None,
) -> bool:
    """Whether this can be done block by block at all.

    Raises:
        UsageError: it cannot, and was asked for.
    """
    lacks = {
        "a model in memory is there as a whole": folder is None,
        "blocks are written as they are done: give out": out is None,
        "training needs the whole model in memory": settings is not None,
        "--merge needs the whole model in memory": merge,
    }
    why = [reason for reason, lacking in lacks.items() if lacking]
    if blocks and why:
        raise UsageError(f"--blocks: {why[0]}")
    return not why


def _request(
    folder: Path | None, recipe: Recipe, settings: Training | None, fields: str | None
) -> dict[str, Any]:
    """What makes a request the same as another one."""
    return {
        "model": folder and checkpoint.weight_digests(folder),
        "data": [recipe.data, checkpoint.file_digest(recipe.data or ""), fields],
        **recipe.model_dump(mode="json", exclude={"data"}),
        **(settings.model_dump() if settings else {}),
    }


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
        request = _request(folder, recipe, settings, fields)
        work = Path(f"{out}.training")
        with working_folder(work, request, resume):
            yield work
