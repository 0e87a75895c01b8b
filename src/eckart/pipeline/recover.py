"""Training after the cut: a compressed (or dense) folder in, a folder of the same kind out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from eckart import checkpoint, folders
from eckart.compression.folder.manifests import recovered_manifest
from eckart.compression.folder.saving import save_folder
from eckart.compression.judging import Judge, Parted
from eckart.data import digest_of, texts_of
from eckart.evaluation.machine import Stopwatch, peak_memory_bytes
from eckart.evaluation.progress import logged, shown
from eckart.model import loading, replacing
from eckart.model.text import begins
from eckart.recipes import files, reading, verbs
from eckart.recipes.describing import takes
from eckart.recovery import learning, processes, requests
from eckart.recovery.requests import find_teacher, make_objective, require_trainable
from eckart.recovery.runs import TrainingSetup, working_folder
from eckart.recovery.settings import make_training
from eckart.types import RecoveryRecipe, Result, Track, UsageError, require_on


@takes(verbs.Recover)
def recover(
    model: str | Path | None = None,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    track: Track = shown,
    **options: Unpack[verbs.Recover],
) -> Result:
    """Train what a cut left, and save the same plain folder.

    Text is learned, or of prompts and completions the completions; an encoder needs a teacher. Checkpoints
    and a log of each step are in `<out>.training` until the end. Started by `torchrun` or `accelerate
    launch`, several processes share each step; the first of them writes, and on GPUs each has its own.

    Args:
        model: a folder that `compress` wrote, a dense model's folder, a hub id, or `pocket`; default that of
            the recipe.
        out: folder to save in; it must not exist.
        recipe: a file of YAML or JSON with options, the `eckart.json` of a recovered folder, or a mapping;
            options given here win.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed. Where a checkpoint was reached, `<out>.training` is left.
    """
    watch = Stopwatch()
    model, found = files.asked(verbs.Recover, model, options, recipe)
    asked = reading.completed(verbs.Recover, found)
    made, out = _recipe(model, asked), _required(out)
    training = make_training(**{"max_length": asked["max_length"], **(found.training or {})})
    processes.windows_a_pass(training.batch, training.accumulate)
    folders.refuse_existing(out)
    folder = loading.find_model(model)
    how = made.model_dump(include={"temperature", "labels", "hidden"})
    with loading.dropping(made.drop_unused):
        config = loading.load_config(folder)
        require_trainable(config, training)
        stored = checkpoint.open_checkpoint(folder)
        folders.refuse_full(out, stored.nbytes)
        objective = make_objective(config, made.teacher, **how)
        teaching = None if made.teacher is None else find_teacher(folder, config, made.teacher, made.hidden)
    where = processes.own_device(asked["device"])
    loading.require_dtype(made.dtype)
    loading.require_device(where)
    texts = texts_of(made.data, loading.generates(config), made.fields, made.on, made.samples)
    request = {
        "model": checkpoint.weight_digests(folder),
        "data": [made.data, digest_of(made.data), made.fields, made.on, made.samples],
        "teacher": teaching and checkpoint.weight_digests(teaching),
        "objective": objective and asdict(objective),
        "dtype": made.dtype,
        "bos": made.bos,
        **training.model_dump(),
    }
    work = Path(f"{out}.training")
    with working_folder(work, request, asked["resume"]):
        with loading.dropping(made.drop_unused):
            student = loading.load_model(folder, where, made.dtype)
            imitated = teaching and loading.load_model(teaching, where)
        tokenizer = loading.load_tokenizer(folder, made.bos)
        made = made.model_copy(update={"bos": begins(student, tokenizer)})
        replacing.require_finite(student)
        before = replacing.count_parameters(student)
        parted = Parted.of(student, tokenizer, texts, training)
        rest = (training, work, asked["resume"], track)
        setup = TrainingSetup(student, tokenizer, made.data, parted.learning, *rest)
        if objective is not None and made.teacher is not None and teaching is not None:
            setup.imitate(imitated, loading.name_of(made.teacher, teaching), objective)
        judge = Judge(parted.batches, student, setup.teacher) if parted.batches else None
        student, record = setup.recover(student)
        learning.cast(student, config)
        manifest = recovered_manifest(folder, loading.name_of(model, folder), student, before, stored.nbytes)
        record.notes += parted.notes
        if judge is not None:
            record.held_out, manifest.held_out = judge.learned(student)
        manifest.training.append(record.model_copy(update={"recipe": made}))
        if processes.leads():
            save_folder(student, tokenizer, manifest, folder, out)
    return logged(
        Result(
            model=student,
            manifest=manifest,
            out=str(out),
            seconds=watch.seconds(),
            peak_memory_bytes=peak_memory_bytes(),
            warnings=requests.warnings_of(record),
        )
    )


def _recipe(model: Any, asked: dict[str, Any]) -> RecoveryRecipe:
    """All that does it again, but for the settings of the training."""
    if asked["data"] is None:
        raise UsageError("recover learns from data: give --data FILE (.jsonl, .txt, .csv)")
    if asked["samples"] is not None and asked["samples"] < 1:
        raise UsageError(f"--samples {asked['samples']}: it is 1 or more")
    require_on(asked["on"])
    chosen = {name: value for name, value in asked.items() if name in RecoveryRecipe.model_fields}
    return RecoveryRecipe(model=str(model), **chosen)


def _required(out: str | Path | None) -> Path:
    if out is None:
        raise UsageError("recover saves a folder: give out")
    return Path(out)
