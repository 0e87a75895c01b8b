"""`eckart evaluate`: one task on one model."""

from __future__ import annotations

from typing import Annotated

import typer

from eckart.cli.ending import errors
from eckart.cli.options import (
    TASKS_HELP,
    AllowCodeExecution,
    Data,
    Debug,
    Device,
    Dtype,
    Fields,
    Json,
    Limit,
    MaxNewTokens,
    Model,
    PromptsAtOnce,
    filled,
    numbers,
)
from eckart.cli.saying import number, print_json, say, track
from eckart.types import UsageError


def evaluate(
    model: Model,
    task: Annotated[str, typer.Option("--task", help=TASKS_HELP, callback=filled)],
    data: Data = None,
    fields: Fields = None,
    limit: Limit = None,
    shots: Annotated[
        int | None,
        typer.Option("--shots", help="So many of --examples before each prompt."),
    ] = None,
    examples: Annotated[
        str | None, typer.Option("--examples", help="A file of worked examples.", callback=filled)
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for each answer and the score; one that was begun is gone on with.",
            callback=filled,
        ),
    ] = None,
    max_new_tokens: MaxNewTokens = None,
    batch: PromptsAtOnce = None,
    k: Annotated[
        str | None,
        typer.Option("--k", help="Tries in pass@k, by comma.", callback=filled),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Programs to write for each problem; default 1.")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="To sample at; default 0, the likeliest token.")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the sampling; default 0.")] = None,
    allow_code_execution: AllowCodeExecution = False,
    include: Annotated[
        str | None, typer.Option("--include", help="A folder with more tasks for lm-eval.", callback=filled)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            help="Tokens at once at most; default 512 of texts to read, all that a writing model takes.",
        ),
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model, dense or compressed, on a task."""
    with errors(debug):
        from eckart import pipeline

        score = pipeline.evaluate(
            model,
            task,
            data,
            fields=fields,
            limit=limit,
            shots=shots,
            examples=examples,
            out=out,
            max_new_tokens=max_new_tokens,
            batch=batch,
            k=None if k is None else _counts("--k", k),
            samples=samples,
            temperature=temperature,
            seed=seed,
            allow_code_execution=allow_code_execution,
            include=include,
            max_length=max_length,
            device=device,
            dtype=dtype,
            track=track,
        )
        details = ", ".join(
            f"{name} {number(value)}"
            for name, value in score.details.items()
            if isinstance(value, (int, float)) and name != score.metric
        )
        say(f"{task}: {score.metric} {score.value:.4f}" + (f" ({details})" if details else ""))
        for name, skill in score.details.get("skills", {}).items():
            say(f"  {name}: {skill['metric']} {skill['value']:.4f}")
        for name, row in score.details.get("results", {}).items():
            say(f"  {name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in row.items()))
        if cut := score.details.get("cut_prompts"):
            say(f"note: {cut} prompts were longer than the model takes and lost their beginning")
        if out is not None:
            say(f"{out}: each answer in samples.jsonl, the score in score.json")
        print_json(as_json, score.as_json())


def _counts(option: str, names: str) -> list[int]:
    found = numbers(option, names)
    if broken := next((value for value in found if not value.is_integer()), None):
        raise UsageError(f"{option} {broken:g}: not a whole number")
    return [int(value) for value in found]
