"""The main job: a pretrained model in, a smaller plain Hugging Face folder out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from eckart.compression import requests, rounding
from eckart.compression.blocks import Job
from eckart.compression.folder.saving import save_folder
from eckart.compression.judging import Parted
from eckart.compression.loaded import Loaded, compress_loaded
from eckart.evaluation.machine import Stopwatch, peak_memory_bytes
from eckart.evaluation.progress import logged, shown
from eckart.model import adapters, loading, replacing
from eckart.model.text import begins
from eckart.recipes import files, making, reading, verbs
from eckart.recipes.describing import takes
from eckart.recovery import processes
from eckart.recovery.runs import TrainingSetup
from eckart.types import Result, Track, UsageError


@takes(verbs.Compress)
def compress(
    model: Any = None,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | None = None,
    tokenizer: Any = None,
    track: Track = shown,
    **options: Unpack[verbs.Compress],
) -> Result:
    """Make a pretrained model smaller by replacing its weight matrices with low-rank structure.

    How small is said by exactly one of `keep`, `size`, `max_loss`, `energy`, `rank` and `ratio`. Options of
    `training` train on the data what the cut left, as `recover` does; basis selection always trains, an epoch
    unless told otherwise. An encoder imitates itself as it was.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model, which is changed in place;
            default that of the recipe.
        out: folder to save in; it must not exist. Without it the result is in memory only. What was stopped
            is gone on with, with `resume`, from `<out>.training` or `<out>.work`.
        recipe: a file of YAML or JSON with options, an `eckart.json`, or a mapping; options given here win.
        training: options of `training` in a mapping; an empty one trains for an epoch.
        selection: options of `selection` in a mapping.
        tokenizer: for a loaded model with data; a folder brings its own.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    watch = Stopwatch()
    given = {"training": training, "selection": selection, **options}
    model, found = files.asked(verbs.Compress, model, given, recipe)
    asked = reading.completed(verbs.Compress, found)
    made, settings = making.recipe_of(model, asked, found.training)
    blocks, resume = _blocks(asked["blocks"]), asked["resume"]
    rounding.require_possible(made.quantize, made.merge)
    if (done := requests.finished(out, resume)) is not None:
        return Result(None, done, str(out), watch.seconds(), peak_memory_bytes())
    loading.require_device(asked["device"])
    if made.adapter is not None:
        adapters.require_adapter(Path(made.adapter))
        if not isinstance(model, (str, Path)):
            raise UsageError("adapter is for a folder: merge it into a loaded model with peft")
    with loading.dropping(made.drop_unused):
        folder, source, generates = requests.source_of(model, out, made)
        texts = requests.read_data(made, settings, generates)
        whole: list[str] = []
        if requests.may_walk(folder, out, made, blocks):
            assert folder is not None
            walked = made.model_copy(update={"blocks": True})
            place = (asked["device"], made.dtype, blocks, asked["memory"])
            job = Job(folder, source, Path(str(out)), walked, texts, *place)
            manifest = job.run(lambda: requests.identity(folder, made), resume, track, whole)
            if manifest is not None:
                seconds = watch.seconds()
                dtype = loading.dtype_of(loading.load_config(folder), made.dtype)
                warnings = requests.warnings_of(manifest, dtype, asked["device"])
                return logged(
                    Result(
                        None, manifest, str(out), seconds, peak_memory_bytes(), job.clock.seconds, warnings
                    )
                )
        with requests.workplace(out, folder, made, resume) as work:
            if folder is not None:
                model = loading.load_model(folder, asked["device"], made.dtype)
                model = model if made.adapter is None else adapters.merge(model, Path(made.adapter))
                known = texts or loading.has_tokenizer(folder)
                tokenizer = loading.load_tokenizer(folder, made.bos) if known else None
            replacing.require_finite(model)
            if texts and tokenizer is not None:
                made = made.model_copy(update={"bos": begins(model, tokenizer)})
            setup, parted = None, Parted(texts)
            if settings is not None and work is not None:
                parted = Parted.of(model, tokenizer, texts, settings)
                setup = TrainingSetup.before_cut(
                    model, tokenizer, made.data or "", parted.learning, settings, work, resume, track
                )
            # Moments are kept on disk for the weights of a folder, and these are others.
            cache = asked["cache"] and made.adapter is None
            loaded = Loaded(model, tokenizer, source, folder, cache)
            manifest = compress_loaded(
                loaded, made, parted.learning, setup, made.merge, track, parted.batches
            )
            manifest.notes += whole + parted.notes
            if made.adapter is not None:
                manifest.notes.append(adapters.described(Path(made.adapter)))
            if out is not None:
                save_folder(model, tokenizer, manifest, folder, Path(out))
        return logged(
            Result(
                model=model,
                manifest=manifest,
                out=None if out is None else str(out),
                seconds=watch.seconds(),
                peak_memory_bytes=peak_memory_bytes(),
                warnings=requests.warnings_of(manifest, model.dtype, str(model.device)),
            )
        )


def _blocks(blocks: bool | None) -> bool | None:
    """Whether to go block by block, as several processes do."""
    if processes.world() > 1 and blocks is False:
        raise UsageError("--whole is one process: several share a model block by block")
    return True if processes.world() > 1 else blocks
