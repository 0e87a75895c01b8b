"""Training after the cut: a compressed (or dense) folder in, a folder of the same kind out."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eckart import checkpoint
from eckart.compression.saving import save_folder
from eckart.data import texts_of
from eckart.evaluation.machine import peak_memory_bytes
from eckart.model import loading, replacing
from eckart.model.quantizing import is_quantized
from eckart.recovery import distillation, learning, processes
from eckart.recovery.runs import TrainingSetup, working_folder
from eckart.recovery.settings import FACTORS, Training, make_training
from eckart.types import (
    MANIFEST,
    Bytes,
    Count,
    Manifest,
    Recipe,
    Result,
    Track,
    UsageError,
    silent,
)


def recover(
    model: str | Path,
    out: str | Path,
    *,
    data: str,
    teacher: str | Path | None = None,
    fields: str | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    labels: float | None = None,
    hidden: float | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    resume: bool = False,
    track: Track = silent,
    **settings: Any,
) -> Result:
    """Train what a cut left, and save the same plain folder.

    Checkpoints and a log of each step are in `<out>.training` until the end. Started by `torchrun` or
    `accelerate launch`, several processes share each step; the first of them writes.

    Args:
        model: a folder that `compress` wrote, a dense model's folder, a hub id, or `pocket`.
        out: folder to save in; it must not exist.
        data: what to learn from: text, or prompts and completions, of which the completions are learned.
        teacher: the dense model, or another with the same vocabulary, to be imitated. An encoder needs one.
        fields: which fields of the data are prompt and completion, by a comma.
        samples: texts of the data to use at most; default all, of the built-in data 1000.
        temperature, labels, hidden: how a teacher is imitated; see `recovery.distillation.Distillation`.
        device: where to run; of several processes on GPUs each has its own.
        dtype: of the weights while they are trained; they are saved in the folder's own.
        resume: go on with a run that was stopped, from its last checkpoint.
        track: shows progress.
        settings: see `recovery.settings.Training`, where the defaults are.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed. Where a checkpoint was reached, `<out>.training` is left.
    """
    started = time.perf_counter()
    training = make_training(**settings)
    processes.windows_a_pass(training.batch, training.accumulate)
    if samples is not None and samples < 1:
        raise UsageError(f"--samples {samples}: it is 1 or more")
    out = Path(out)
    checkpoint.refuse_existing(out)
    folder = loading.find_model(model)
    config = loading.load_config(folder)
    _require_trainable(config, training)
    stored = checkpoint.open_checkpoint(folder)
    checkpoint.refuse_full(out, stored.nbytes)
    objective = _objective(config, teacher, temperature=temperature, labels=labels, hidden=hidden)
    teaching = None if teacher is None else _find_teacher(folder, config, teacher, hidden)
    loading.require_dtype(dtype)
    loading.require_device(processes.own_device(device))
    texts = texts_of(data, loading.generates(config), fields, samples)
    request = {
        "model": checkpoint.weight_digests(folder),
        "data": [data, checkpoint.file_digest(data), fields, samples],
        "teacher": teaching and checkpoint.weight_digests(teaching),
        "objective": objective and asdict(objective),
        "dtype": dtype,
        **training.model_dump(),
    }
    work = Path(f"{out}.training")
    with working_folder(work, request, resume):
        where = processes.own_device(device)
        student = loading.load_model(folder, where, dtype)
        tokenizer = loading.load_tokenizer(folder)
        replacing.require_finite(student)
        before = replacing.count_parameters(student)
        setup = TrainingSetup(student, tokenizer, data, texts, training, work, resume=resume, track=track)
        if objective is not None and teacher is not None and teaching is not None:
            name = loading.name_of(teacher, teaching)
            setup.imitate(loading.load_model(teaching, where), name, objective)
        student, record = setup.recover(student)
        learning.cast(student, config)
        manifest = _manifest(folder, loading.name_of(model, folder), student, before, stored.nbytes)
        manifest.training.append(record)
        if processes.leads():
            save_folder(student, tokenizer, manifest, folder, out)
    return Result(
        model=student,
        manifest=manifest,
        out=str(out),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )


def _require_trainable(config: Any, training: Training) -> None:
    """Raises UsageError where the model has nothing that this training could change."""
    if is_quantized(config):
        raise UsageError(
            "this model's weights are quantized, and whole numbers cannot be trained: recover the folder "
            "that was compressed without --quantize, or train in the cut (compress --tokens … --quantize …)"
        )
    compressed = learning.has_factors(config)
    if not compressed:
        loading.refuse_compressed(config)
    if training.by_peft:
        learning.require_method(training.train)
    elif training.train == FACTORS and not compressed:
        raise UsageError(
            "this model has no factors to train: it is dense. Train all of it (--train all), or adapters "
            "(--train lora)"
        )


def _objective(config: Any, teacher: Any, **given: float | None) -> Any:
    """How a teacher is imitated; `None` where there is none, and labels alone are learned."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if teacher is not None:
        return distillation.Distillation(**chosen)
    if chosen:
        raise UsageError(f"--{next(iter(chosen))} says how a teacher is imitated: give --teacher MODEL too")
    if not loading.generates(config):
        raise UsageError(
            f"{loading.model_class(config).__name__} writes no text that it could learn: give --teacher "
            "MODEL, the dense model, and it learns to answer as that does"
        )
    return None


def _find_teacher(folder: Path, config: Any, teacher: str | Path, hidden: float | None) -> Path:
    """The teacher's folder.

    Raises:
        UsageError: its answers cannot be compared with the model's.
    """
    teaching = loading.find_model(teacher)
    distillation.require_teacher(config, loading.load_config(teaching), hidden)
    checkpoint.open_checkpoint(teaching)
    if loading.has_tokenizer(folder) and loading.has_tokenizer(teaching):
        own, other = (loading.load_tokenizer(one).get_vocab() for one in (folder, teaching))
        if own != other:
            raise UsageError(
                f"the teacher {teacher} has another vocabulary: {len(other):,} tokens where the model has "
                f"{len(own):,}, or others; the teacher is the model that was cut, or one of its tokenizer"
            )
    return teaching


def _manifest(folder: Path, source: str, model: Any, before: int, nbytes: int) -> Manifest:
    """What the folder's own manifest says, of the trained model; a new one where there is none.

    What was measured of the cut is true of it alone, and is left out.
    """
    after, size = replacing.count_parameters(model), replacing.count_bytes(model)
    path = folder / MANIFEST
    if path.is_file():
        manifest = Manifest.model_validate_json(path.read_text())
        manifest.bytes.after, manifest.held_out = size, None
        for record in manifest.targets:
            record.measured_error = None
        versions = {name: version(name) for name in ("eckart", "torch", "transformers")}
        return manifest.model_copy(update=versions)
    return Manifest(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=source,
        recipe=Recipe(method="dense", metric="identity", structure="dense", allocation="uniform"),
        parameters=Count(before=before, after=after, keep=after / before, targets_before=0, targets_after=0),
        bytes=Bytes(before=nbytes, after=size),
        targets=[],
    )
