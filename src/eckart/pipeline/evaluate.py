"""One task on one model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from eckart import checkpoint, recipes
from eckart.data import read_pairs, read_rows, read_texts
from eckart.evaluation import Request, Score, Settings, find_task, keeping
from eckart.evaluation import tasks as table
from eckart.evaluation.answers import FINAL, require_answers
from eckart.evaluation.asking import require_prompts
from eckart.evaluation.harness import find
from eckart.model import loading
from eckart.types import Text, Track, UsageError, silent

POCKET = tuple(task.name for task in table.POCKET)
TASKS = (*table.TASKS, table.HARNESS.name)
COMPARED = tuple(name for name, task in table.TASKS.items() if task.reads not in ("prompts", "problems"))
"""Tasks that a comparison can measure too: those that need no more than a model and data."""

LEAST = {"limit": 1, "max_length": 1, "max_new_tokens": 1, "batch": 1, "shots": 1, "samples": 1, "seed": 0}
KEPT_APART = ("allow_code_execution", "examples")
"""Settings that a saved request does not hold as they stand."""


def evaluate(
    model: Any,
    task: str,
    data: str | None = None,
    *,
    limit: int | None = None,
    max_length: int | None = None,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    fields: str | None = None,
    shots: int | None = None,
    examples: str | None = None,
    out: str | Path | None = None,
    max_new_tokens: int | None = None,
    batch: int | None = None,
    k: Sequence[int] | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    allow_code_execution: bool = False,
    include: str | None = None,
    track: Track = silent,
) -> Score:
    """Measure a model on a task.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model with its `tokenizer`. It is
            measured in evaluation mode, and left in the mode it came in.
        task: `perplexity` (of `data`), `stsb` (`data` a sentence-pair file), `gsm8k`, `math`, `samsum`,
            `pairs` (any prompts with completions), `humaneval`, `mbpp`, `pocket` (its three skills) or one of
            them: `pocket-math`, `pocket-code`, `pocket-stories`; or `lm-eval:NAME`, any of the harness's.
        data: a file, or a data set of the hub, whose split `test` is read.
        limit: texts, pairs, problems or samples to use at most; default all of a file, 200 of a pocket skill.
        max_length: tokens at once at most; default 512 where text is read, and what the model can take where
            it writes.
        fields: `PROMPT,COMPLETION`, the names of the fields in the data and the examples.
        shots, examples: so many worked examples, the first of a file, before each prompt; of the harness's
            tasks `shots` alone.
        out: a folder for the answers, one by one, and the score; the same request goes on with it.
        max_new_tokens: that an answer has at most; default by the task.
        batch: prompts at once.
        k, samples, temperature, seed: pass@k from so many programs for each problem, drawn at a temperature.
        allow_code_execution: run what the model wrote, on this machine.
        include: a folder with more of the harness's tasks.

    Raises:
        UsageError: an unknown task, missing or wrong data, an option that the task has no use for, a model
            that cannot do the task, or a folder with something else in it.
        EckartError: the measurement failed.
    """
    settings = make_settings(
        task,
        data,
        {
            "limit": limit,
            "max_length": max_length,
            "max_new_tokens": max_new_tokens,
            "batch": batch,
            "shots": shots,
            "k": None if k is None else tuple(k),
            "samples": samples,
            "temperature": temperature,
            "seed": seed,
            "include": include,
            "allow_code_execution": allow_code_execution or None,
            "fields": fields,
            "examples": examples,
            "out": out,
        },
    )
    if out is not None:
        keeping.refuse_foreign(Path(out))
    if isinstance(model, (str, Path)):
        folder = loading.find_model(model)
        config = loading.load_config(folder)
        checkpoint.open_checkpoint(folder)
        material = read_material(task, data, loading.generates(config), fields, include)
        tokenizer = loading.load_tokenizer(folder)
        name, model = str(model), loading.load_model(folder, device, dtype)
    else:
        material = read_material(task, data, bool(model.can_generate()), fields, include)
        name = type(model).__name__
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
    request = Request(task, model, tokenizer, material[:limit], settings, track=track)
    if out is not None:
        request.kept = keeping.Kept(Path(out), identity(request, name))
    score = run(request)
    request.kept.finish(score.as_json())
    return score


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
    others = ("fields", "examples", "out")
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
    task: str, data: str | None, generates: bool, fields: str | None = None, include: str | None = None
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
        return read_texts(data, lines=not generates, split="test", fields=fields)
    if reads == "problems":
        from eckart.evaluation import code

        make = code.humaneval_items if task == "humaneval" else code.mbpp_items
        return list(make(read_rows(data, split="test")))
    texts = read_texts(data, split="test", fields=fields)
    require_prompts(data, texts, task)
    if task in FINAL:
        require_answers(data, texts, FINAL[task])
    return texts


def _task(name: str) -> table.Task:
    found = find_task(name)
    if found is None:
        raise UsageError(recipes.unknown("task", name, TASKS))
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
        "data": keeping.digest(pieces),
        "examples": keeping.digest(asdict(text) for text in request.settings.examples),
        **settings,
    }


def _piece(one: Any) -> Any:
    """What there is to a text, a problem or a pair of sentences."""
    if hasattr(one, "program"):
        return [one.name, one.prompt, one.program("")]
    return one if isinstance(one, tuple) else asdict(one)
