"""One task on one model: what it reads, how it is asked, and its score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eckart import checkpoint
from eckart.data import read_pairs, read_rows, read_texts
from eckart.evaluation import keeping
from eckart.evaluation import tasks as table
from eckart.evaluation.asking import Request, Settings, require_prompts
from eckart.evaluation.score import Score
from eckart.evaluation.tasks import find_task
from eckart.evaluation.tasks.answers import FINAL, require_answers
from eckart.evaluation.tasks.harness import find
from eckart.model import loading
from eckart.types import On, Text, Track, UsageError, unknown

POCKET = tuple(task.name for task in table.POCKET)
TASKS = (*table.TASKS, table.HARNESS.name)
COMPARED = tuple(name for name, task in table.TASKS.items() if task.reads not in ("prompts", "problems"))
"""Tasks that a comparison can measure too: those that need no more than a model and data."""
LEAST = {"limit": 1, "max_length": 1, "max_new_tokens": 1, "batch": 1, "shots": 1, "samples": 1, "seed": 0}
KEPT_APART = ("allow_code_execution", "examples")
"""Settings that a saved request does not hold as they stand."""


def make_settings(task: str, data: str | None, given: Mapping[str, Any]) -> Settings:
    """How a task is asked, from the options that were given.

    Args:
        given: options of `evaluate` by name; `None` is as it is by default.

    Raises:
        UsageError: an unknown task, missing data, a value out of range, or an option that the task has no
            use for.
    """
    found = _task(task)
    _refuse_unused(found, task, given)
    others = ("fields", "on", "examples", "out", "against")
    settings = _settings({k: v for k, v in given.items() if v is not None and k not in others})
    if found.reads == "problems":
        from eckart.evaluation import code

        code.require_permission(settings.allow_code_execution)
    if found.needs_data and data is None:
        raise UsageError(f"task {task} needs data: give --data FILE")
    if not found.needs_data and data is not None:
        raise UsageError(f"task {task} brings its own data: leave --data {data} out")
    if found.reads == "harness":
        return settings
    examples = _examples(settings.shots, given.get("examples"), given.get("fields"))
    return replace(settings, shots=None, examples=examples)


def measure(
    model: Any,
    tokenizer: Any,
    task: str,
    material: list[Any],
    limit: int | None,
    max_length: int,
    track: Track,
) -> Score:
    """Measure a loaded model on `material`, which pocket tasks bring themselves."""
    settings = Settings(limit=limit, max_length=max_length)
    return run(Request(task, model, tokenizer, material, settings, track=track))


def read_material(
    task: str,
    data: str | None,
    generates: bool,
    fields: str | None = None,
    include: str | None = None,
    on: On = "answers",
) -> list[Any]:
    """What a task reads, checked: see `Task.reads`; nothing for a task that brings its own.

    Raises:
        UsageError: it cannot be read, or lacks what the task needs.
    """
    reads = _task(task).reads
    if reads == "harness":
        return [find(task, include)]
    if data is None or reads == "nothing":
        return []
    if reads == "sentence pairs":
        return read_pairs(data)
    if reads == "texts":
        return read_texts(data, lines=not generates, split="test", fields=fields, on=on)
    if reads == "problems":
        from eckart.evaluation import code

        make = code.humaneval_items if task == "humaneval" else code.mbpp_items
        return list(make(read_rows(data, split="test")))
    texts = read_texts(data, split="test", fields=fields)
    require_prompts(data, texts, task)
    if task in FINAL:
        require_answers(data, texts, FINAL[task])
    return texts


def load_dense(against: Any, tokenizer: Any, device: str, dtype: str) -> Any:
    """The model that another is compared with.

    Args:
        against: a folder, a hub id or a loaded model; `None` is none.
        tokenizer: of the other model.

    Raises:
        UsageError: it has another vocabulary.
    """
    if against is None:
        return None
    if not isinstance(against, (str, Path)):
        loading.require_transformers(against)
        return against
    folder = loading.find_model(against)
    if loading.has_tokenizer(folder) and loading.load_tokenizer(folder).get_vocab() != tokenizer.get_vocab():
        raise UsageError(f"--against {against}: it has another vocabulary, so what both say does not compare")
    return loading.load_model(folder, device, dtype)


def _task(name: str) -> table.Task:
    found = find_task(name)
    if found is None:
        raise UsageError(unknown("task", name, TASKS))
    return found


def run(request: Request) -> Score:
    """The task's score, with the model in evaluation mode meanwhile."""
    task, model = _task(request.task), request.model
    if task.writes:
        loading.require_generation(model)
    training = model.training
    model.eval()
    try:
        return task.run(request)
    finally:
        model.train(training)


def _refuse_unused(task: table.Task, name: str, given: Mapping[str, object]) -> None:
    """Raises UsageError where an option is given that the task has no use for."""
    for option, value in given.items():
        if value is None or option in ("limit", "max_length") or option in task.options:
            continue
        users = [row.name for row in (*table.TASKS.values(), table.HARNESS) if option in row.options]
        flag = f"--{option.replace('_', '-')}"
        raise UsageError(f"{flag} is for {' and '.join(users)}: leave it out for {name}")


def _settings(given: dict[str, Any]) -> Settings:
    """The settings that were given, and the defaults of the others."""
    for name, least in LEAST.items():
        if given.get(name, least) < least:
            raise UsageError(f"--{name.replace('_', '-')} {given[name]}: it is {least} or more")
    settings = Settings(**given)
    if settings.temperature < 0:
        raise UsageError(f"--temperature {settings.temperature:g}: it is 0 or more")
    if not settings.k or min(settings.k) < 1:
        raise UsageError(f"--k {','.join(map(str, settings.k))}: they are 1 or more")
    if settings.samples > 1 and not settings.temperature:
        raise UsageError(
            f"--samples {settings.samples}: without chance all are the same; give --temperature 0.8, say"
        )
    if (most := max(settings.k)) > settings.samples:
        raise UsageError(
            f"--k {most}: pass@{most} needs {most} programs for each problem; give --samples {most} or more"
        )
    return settings


def _examples(shots: int | None, examples: str | None, fields: str | None) -> tuple[Text, ...]:
    """The first `shots` worked examples of a file."""
    if shots is None and examples is None:
        return ()
    if shots is None or examples is None:
        missing = "--shots N" if shots is None else "--examples FILE"
        raise UsageError(f"worked examples are so many of a file: give {missing} too")
    texts = read_texts(examples, fields=fields)
    if len(texts) < shots:
        raise UsageError(f"--shots {shots}: {examples} has {len(texts)} examples")
    return tuple(texts[:shots])


def identity(request: Request, model: str) -> dict[str, Any]:
    """What makes a request the same as another one, for the folder of its answers."""
    pieces = [_piece(one) for one in request.material if _task(request.task).needs_data]
    settings = {name: value for name, value in asdict(request.settings).items() if name not in KEPT_APART}
    return {
        "task": request.task,
        "model": model,
        "weights": keeping.fingerprint(request.model),
        "data": checkpoint.json_digest(pieces),
        "examples": checkpoint.json_digest(asdict(text) for text in request.settings.examples),
        **settings,
    }


def _piece(one: Any) -> Any:
    """What there is to a text, a problem or a pair of sentences."""
    if hasattr(one, "program"):
        return [one.name, one.prompt, one.program("")]
    return one if isinstance(one, tuple) else asdict(one)
