"""One task on one model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eckart import checkpoint, recipes
from eckart import evaluation as tasks
from eckart.data import read_pairs, read_texts
from eckart.evaluation import Score
from eckart.model import loading
from eckart.types import MAX_LENGTH, Track, UsageError, silent

POCKET: dict[str, Callable[..., Score]] = {
    "pocket-math": tasks.pocket_math,
    "pocket-code": tasks.pocket_code,
    "pocket-stories": tasks.pocket_stories,
}
TASKS = ("perplexity", "stsb", "pocket", *POCKET)


def evaluate(
    model: Any,
    task: str,
    data: str | None = None,
    *,
    limit: int | None = None,
    max_length: int = MAX_LENGTH,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    track: Track = silent,
) -> Score:
    """Measure a model on a task.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model with its `tokenizer`. It is
            measured in evaluation mode, and left in the mode it came in.
        task: `perplexity` (of `data`), `stsb` (`data` a sentence-pair file), `pocket` (its three skills)
            or one of them: `pocket-math`, `pocket-code`, `pocket-stories`.
        limit: texts, pairs or samples to use at most; default all of a file, 200 of a pocket skill.
        max_length: tokens in a window at most.

    Raises:
        UsageError: an unknown task, missing data, or a model that cannot do the task.
        EckartError: the measurement failed.
    """
    if task not in TASKS:
        raise UsageError(recipes.unknown("task", task, TASKS))
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: it is 1 or more")
    if max_length < 1:
        raise UsageError(f"--max-length {max_length}: it is 1 or more")
    if task in ("perplexity", "stsb") and data is None:
        raise UsageError(f"task {task} needs data: give --data FILE")
    if task not in ("perplexity", "stsb") and data is not None:
        raise UsageError(f"task {task} brings its own data: leave --data {data} out")
    if isinstance(model, (str, Path)):
        folder = loading.find_model(model)
        config = loading.load_config(folder)
        checkpoint.open_checkpoint(folder)
        material = read_material(task, data, loading.generates(config))
        tokenizer = loading.load_tokenizer(folder)
        model = loading.load_model(folder, device, dtype)
    else:
        material = read_material(task, data, bool(model.can_generate()))
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
    training = model.training
    model.eval()
    try:
        return measure(model, tokenizer, task, material[:limit], limit, max_length, track)
    finally:
        model.train(training)


def measure(
    model: Any,
    tokenizer: Any,
    task: str,
    material: list[Any],
    limit: int | None,
    max_length: int,
    track: Track,
) -> Score:
    """Measure a loaded model, in evaluation mode, on `material`, which pocket tasks bring themselves."""
    if task == "perplexity":
        return tasks.perplexity(model, tokenizer, material, max_length, track)
    if task == "stsb":
        return tasks.stsb(model, tokenizer, material, max_length, track)
    loading.require_generation(model)
    if task in POCKET:
        return POCKET[task](model, tokenizer, limit or 200, track)
    skills = [run(model, tokenizer, limit or 200, track) for run in POCKET.values()]
    details = {
        skill.task: {"metric": skill.metric, "value": skill.value, **skill.details} for skill in skills
    }
    right = [skill.value for skill in skills if skill.metric != "perplexity"]
    return Score("pocket", "mean of exact_match and pass@1", sum(right) / len(right), {"skills": details})


def read_material(task: str, data: str | None, generates: bool) -> list[Any]:
    """What a task reads: sentence pairs, texts, or nothing for a task that brings its own."""
    if data is None or task not in ("perplexity", "stsb"):
        return []
    return read_pairs(data) if task == "stsb" else read_texts(data, lines=not generates, split="test")
