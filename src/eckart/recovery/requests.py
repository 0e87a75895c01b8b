"""What a recovery needs of a model and its teacher, before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eckart import checkpoint
from eckart.model import building, loading
from eckart.model.quantizing import is_quantized
from eckart.recovery import distillation, learning
from eckart.recovery.settings import FACTORS, Training
from eckart.types import TrainingRecord, UsageError


def require_trainable(config: Any, training: Training) -> None:
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


def make_objective(config: Any, teacher: Any, **given: float | None) -> distillation.Distillation | None:
    """How a teacher is imitated; `None` where there is none, and labels alone are learned."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if teacher is not None:
        return distillation.Distillation(**chosen)
    if chosen:
        raise UsageError(f"--{next(iter(chosen))} says how a teacher is imitated: give --teacher MODEL too")
    if not loading.generates(config):
        raise UsageError(
            f"{building.model_class(config).__name__} writes no text that it could learn: give --teacher "
            "MODEL, the dense model, and it learns to answer as that does"
        )
    return None


def warnings_of(record: TrainingRecord) -> list[str]:
    """What a user may not expect of a training: that it made the model worse."""
    judged = record.held_out
    if judged is None or judged.after <= judged.before:
        return []
    return [
        f"on data that it did not learn from the model became worse ({judged.before:.4f} -> "
        f"{judged.after:.4f}): try a lower --learning-rate, fewer passes over the data, or more --data of "
        "the kind that it is for"
    ]


def find_teacher(folder: Path, config: Any, teacher: str | Path, hidden: float | None) -> Path:
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
