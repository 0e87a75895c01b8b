"""`eckart evaluate`: one task on one model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer

import eckart
from eckart.cli.options import Model, completing, filled, verb
from eckart.cli.saying import note, number, show_table, tell, track, warn
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
    if options.get("against") is not None:
        _show_beside(score)
        return score.as_json()
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


def _show_beside(score: Any) -> None:
    """What stands beside the dense model, a row for each figure, with its standard error."""
    found = score.details
    ratio, off = found["perplexity_ratio"], found["perplexity_ratio_error"]
    rows = [
        ("perplexity", f"{score.value:.4f}", f"dense {found['dense_perplexity']:.4f}"),
        ("times the dense perplexity", f"{ratio:.4f}", _error(off)),
        ("divergence, mean", f"{found['divergence']:.5f}", _error(found["divergence_error"])),
        ("divergence, median", f"{found['divergence_median']:.5f}", ""),
        ("divergence, 99% below", f"{found['divergence_99']:.5f}", ""),
        ("same likeliest token", f"{found['same_top']:.2%}", _error(found["same_top_error"], 100, "%")),
    ]
    if "repetition" in found:
        dense = f"dense {found['dense_repetition']:.2%}"
        rows.append(("repetition in continuations", f"{found['repetition']:.2%}", dense))
    show_table(("", "value", "± or dense"), rows)
    counted = f"{found['tokens']:,} tokens of {found['windows']:,} windows"
    tell(f"{counted}; divergence: KL(dense ‖ model) in nats a token")


def _error(value: float | None, times: float = 1, unit: str = "") -> str:
    return "" if value is None else f"± {value * times:.4f}{unit}"


def _track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """Progress; before generated code runs, what it is kept from on this machine."""
    from eckart.evaluation import code

    if description == code.RUNNING:
        (warn if code.left_open() else note)(f"programs run {code.protection()}")
    yield from track(items, description, total)
