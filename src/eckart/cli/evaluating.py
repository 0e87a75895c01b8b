"""`eckart evaluate`: one task on one model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from eckart.cli.ending import errors
from eckart.cli.options import Debug, Json, Model, filled, takes
from eckart.cli.saying import number, print_json, say, track
from eckart.recipes import reading, verbs


@takes(verbs.EvaluateRun)
def evaluate(
    model: Model,
    task: Annotated[str, typer.Option("--task", help=verbs.TASKS_HELP, callback=filled)],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for each answer and the score; one that was begun is gone on with.",
            callback=filled,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
    **given: Any,
) -> None:
    """Measure a model, dense or compressed, on a task."""
    with errors(debug):
        from eckart import pipeline

        options = reading.given(verbs.EvaluateRun, given).options
        if options.get("allow_code_execution"):
            from eckart.evaluation import code

            say(f"{'warning' if code.left_open() else 'note'}: programs run {code.protection()}")
        score = pipeline.evaluate(model, task, out=out, track=track, **options)
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
