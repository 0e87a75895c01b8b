"""`eckart evaluate`: one task on one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

import eckart
from eckart.cli.options import Model, completing, filled, verb
from eckart.cli.saying import note, number, tell, track, warn
from eckart.recipes import reading, verbs


@verb(verbs.EvaluateRun, "eckart evaluate SMALL --task perplexity --data FILE")
def evaluate(
    model: Model,
    task: Annotated[
        str,
        typer.Option("--task", help=verbs.TASKS_HELP, callback=filled, autocompletion=completing("task")),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for each answer and the score; one that was begun is gone on with.",
            callback=filled,
        ),
    ] = None,
    **given: Any,
) -> dict[str, Any]:
    """Measure a model, dense or compressed, on a task."""
    options = reading.given(verbs.EvaluateRun, given).options
    score = eckart.evaluate(model, task, out=out, track=_track, **options)
    details = ", ".join(
        f"{name} {number(value)}"
        for name, value in score.details.items()
        if isinstance(value, (int, float)) and name != score.metric
    )
    tell(f"{task}: {score.metric} {score.value:.4f}" + (f" ({details})" if details else ""))
    for name, skill in score.details.get("skills", {}).items():
        tell(f"  {name}: {skill['metric']} {skill['value']:.4f}")
    for name, row in score.details.get("results", {}).items():
        tell(f"  {name}: " + ", ".join(f"{metric} {value:.4f}" for metric, value in row.items()))
    if cut := score.details.get("cut_prompts"):
        note(f"{cut} prompts were longer than the model takes and lost their beginning")
    if out is not None:
        tell(f"{out}: each answer in samples.jsonl, the score in score.json")
    answer: dict[str, Any] = score.as_json()
    return answer


def _track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """Progress; before generated code runs, what it is kept from on this machine."""
    from eckart.evaluation import code

    if description == code.RUNNING:
        (warn if code.left_open() else note)(f"programs run {code.protection()}")
    yield from track(items, description, total)
