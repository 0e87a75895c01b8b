"""Words in, words out. Every command's logic is elsewhere.

With `--json` standard output holds one JSON object and nothing else; all that is meant for people goes to
standard error.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from eckart import recipes
from eckart.types import EckartError

if TYPE_CHECKING:
    from eckart.pipeline import Plan, PlannedTarget

app = typer.Typer(
    name="eckart",
    help="Make pretrained transformers smaller with low-rank structure, and see what that cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
console = Console(stderr=True, highlight=False)

LOG_SECONDS = 60
SKILLS = {
    "pocket-math": "math\nexact match",
    "pocket-code": "code\npass@1",
    "pocket-stories": "stories\nperplexity",
}

INTERRUPTS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
NO_MEMORY = ("out of memory", "can't allocate memory")
"""What torch says when it has none left, on a GPU and on the CPU."""
PATIENCE_SECONDS = 2
"""For cleaning up after an interruption, in which another one is not heard."""


class Interrupted(BaseException):
    """Somebody wants this process to stop.

    Not `KeyboardInterrupt`: where one passes through code that was compiled from a string, as dataclasses
    make some, Python ends with a signal of its own whatever exit code is asked for later.
    """


def _filled(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """An empty value is a mistake, as of a shell variable that is not set: it never means the default."""
    if value is not None and not value.strip():
        _say(f"eckart: {parameter.metavar or parameter.opts[0]} is empty")
        raise typer.Exit(2)
    return value


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or pocket.", callback=_filled)
]
Keep = Annotated[float | None, typer.Option("--keep", help="Parameters after / parameters before.")]
Rank = Annotated[int | None, typer.Option("--rank", help="The same rank for every target, by hand.")]
Ratio = Annotated[float | None, typer.Option("--ratio", help="Rank by hand, as a share of the smaller side.")]
Of = Annotated[str, typer.Option("--of", help="Count keep over the whole model, or over the targets.")]
Method = Annotated[str | None, typer.Option("--method", help="A row of the catalogue: eckart methods.")]
MetricName = Annotated[
    str | None, typer.Option("--metric", help="Instead of the method's: how error is weighed.")
]
StructureName = Annotated[
    str | None, typer.Option("--structure", help="Instead of the method's: lowrank or pivoted.")
]
Allocate = Annotated[
    str | None, typer.Option("--allocate", help="Instead of the method's: uniform or waterfill.")
]
Targets = Annotated[
    str | None,
    typer.Option(
        "--targets",
        help="Module-name endings or globs, by comma; default all in the blocks.",
        callback=_filled,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option("--layers", help="Which blocks: top:4, bottom:2, 3-7, 0,5.", callback=_filled),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help=".jsonl, .txt, .csv or .tsv; pocket for the built-in.", callback=_filled),
]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens in a window at most.")]
Device = Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Load weights in: auto, float32, bfloat16, float16.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """The console entry point."""
    for number in INTERRUPTS:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it, and a shell's background jobs
            signal.signal(number, _interrupt)
    try:
        app()
    except Interrupted as error:
        _say(f"eckart: {_explained(error)[0]}")
        sys.exit(1)


@app.callback()
def _prepare() -> None:
    # What transformers and torch have to say is for programmers; what a user must know, Eckart says.
    warnings.filterwarnings("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
def demo(
    limit: Annotated[int, typer.Option("--limit", help="Held-out samples of each skill.")] = 200,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The main job on the built-in model: no download, a few minutes."""
    with _errors(debug):
        from eckart import pipeline

        _say(
            "The pocket model solves word problems, writes small functions and tells stories. Here it is,\n"
            "dense and compressed to 80% and 60% of its parameters; each model is saved, loaded and measured."
        )
        started = time.perf_counter()
        rows = pipeline.demo(limit, _track)
        table = Table("method", "keep", "parameters", "MB", *SKILLS.values())
        for row in rows:
            skills = [f"{row.skills[skill]:.3f}" for skill in SKILLS]
            table.add_row(
                row.method, f"{row.keep:g}", f"{row.parameters:,}", f"{row.bytes / 1e6:.2f}", *skills
            )
        console.print(table)
        seconds = time.perf_counter() - started
        _say(
            f"{limit} held-out samples a skill, greedy; calibrated on the train split; {seconds:.0f} s.\n"
            "Next, on your own model:\n"
            "  eckart plan MODEL --keep 0.8\n"
            "  eckart compress MODEL -o OUT --keep 0.8 --data FILE\n"
            "  eckart verify OUT"
        )
        _print_json(as_json, {"rows": [asdict(row) for row in rows], "seconds": seconds})


@app.command()
def plan(
    model: Model,
    keep: Keep = None,
    rank: Rank = None,
    ratio: Ratio = None,
    of: Of = "model",
    method: Method = None,
    structure: StructureName = None,
    allocate: Allocate = None,
    targets: Targets = None,
    layers: Layers = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Sizes and break-even ranks before anything is run; needs only a config."""
    with _errors(debug):
        from eckart import pipeline

        made = pipeline.plan(
            model,
            keep=keep,
            rank=rank,
            ratio=ratio,
            of=of,
            method=method,
            structure=structure,
            allocation=allocate,
            targets=_split(targets),
            layers=layers,
        )
        _show_plan(made)
        targets_json = [
            {
                "name": row.target.name,
                "shape": [row.target.out_features, row.target.in_features],
                "rank": row.rank,
                "parameters": {"before": row.parameters_before, "after": row.parameters_after},
                "break_even": {"lowrank": row.lowrank_pays_to, "pivoted": row.pivoted_pays_to},
            }
            for row in made.targets
        ]
        _print_json(
            as_json,
            {
                "out": None,
                "method": made.recipe.method,
                "structure": made.recipe.structure,
                "architecture": made.architecture,
                "parameters": made.parameters.model_dump(),
                "bytes": made.bytes.model_dump(),
                "seconds": made.seconds,
                "peak_memory_bytes": made.memory_estimate,
                "targets": targets_json,
                "notes": made.notes,
            },
        )


@app.command()
def compress(
    model: Model,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder to save in; it must not exist.", callback=_filled)
    ],
    keep: Keep = None,
    rank: Rank = None,
    ratio: Ratio = None,
    of: Of = "model",
    method: Method = None,
    metric: MetricName = None,
    structure: StructureName = None,
    allocate: Allocate = None,
    targets: Targets = None,
    layers: Layers = None,
    data: Data = None,
    samples: Annotated[int, typer.Option("--samples", help="Windows of the data to use at most.")] = 512,
    max_length: MaxLength = 512,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The main job: a pretrained model in, a smaller plain Hugging Face folder out."""
    with _errors(debug):
        from eckart import pipeline

        made = pipeline.compress(
            model,
            out,
            keep=keep,
            rank=rank,
            ratio=ratio,
            of=of,
            method=method,
            metric=metric,
            structure=structure,
            allocation=allocate,
            targets=_split(targets),
            layers=layers,
            data=data,
            samples=samples,
            max_length=max_length,
            device=device,
            dtype=dtype,
            track=_track,
        )
        manifest = made.manifest
        _notes(manifest.notes)
        _say(
            f"{out}: {manifest.recipe.method}, {manifest.recipe.structure}, {manifest.recipe.allocation}; "
            f"{_shrunk(manifest.parameters, manifest.bytes)}; {made.seconds:.1f} s, "
            f"{made.peak_memory_bytes / 1e9:.2f} GB at the peak"
        )
        _print_json(
            as_json,
            {
                "out": out,
                "method": manifest.recipe.method,
                "parameters": manifest.parameters.model_dump(),
                "bytes": manifest.bytes.model_dump(),
                "seconds": made.seconds,
                "peak_memory_bytes": made.peak_memory_bytes,
                "notes": manifest.notes,
            },
        )


@app.command()
def evaluate(
    model: Model,
    task: Annotated[
        str,
        typer.Option("--task", help="perplexity, stsb, pocket, pocket-math, pocket-code, pocket-stories."),
    ],
    data: Data = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Texts, pairs or samples to use at most.")
    ] = None,
    max_length: MaxLength = 512,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure a model, dense or compressed, on a task."""
    with _errors(debug):
        from eckart import pipeline

        score = pipeline.evaluate(
            model, task, data, limit=limit, max_length=max_length, device=device, dtype=dtype, track=_track
        )
        answer = score.as_json()
        details = ", ".join(
            f"{name} {_number(value)}" for name, value in score.details.items() if name != "skills"
        )
        _say(f"{task}: {score.metric} {score.value:.4f}" + (f" ({details})" if details else ""))
        for name, skill in score.details.get("skills", {}).items():
            _say(f"  {name}: {skill['metric']} {skill['value']:.4f}")
        _print_json(as_json, answer)


@app.command()
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder that Eckart saved.", callback=_filled)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a compressed folder: hashes, shapes, that it loads with and without Eckart, and its values."""
    with _errors(debug):
        from eckart import pipeline

        verdict = pipeline.verify(out, _track)
        for check in verdict.checks:
            _say(f"{'ok    ' if check.ok else 'FAILED'} {check.check}: {check.detail}")
        _print_json(
            as_json,
            {"out": verdict.out, "ok": verdict.ok, "checks": [asdict(check) for check in verdict.checks]},
        )
        if not verdict.ok:
            raise typer.Exit(1)


@app.command()
def methods(as_json: Json = False, debug: Debug = False) -> None:
    """The catalogue: each method's row, its paper, and where this implementation departs from it."""
    with _errors(debug):
        table = Table("method", "metric", "structure", "allocation", "recovery", "data")
        for row in recipes.METHODS.values():
            data = "needed" if row.needs_data else "none"
            table.add_row(row.name, row.metric, row.structure, row.allocation, row.recovery, data)
        console.print(table)
        for row in recipes.METHODS.values():
            _say(f"{row.name}: {row.paper}\n  departure: {row.departure}")
        for name, metric in recipes.METRICS.items():
            _say(f"metric {name}: {metric.meaning}")
        rows = [{**asdict(row), "needs_data": row.needs_data} for row in recipes.METHODS.values()]
        _print_json(as_json, {"methods": rows})


def _show_plan(made: Plan) -> None:
    groups: dict[tuple[str, int, int], list[PlannedTarget]] = {}
    for row in made.targets:
        kind = row.target.name.rsplit(".", 1)[-1]
        groups.setdefault((kind, row.target.out_features, row.target.in_features), []).append(row)
    table = Table(
        "weight", "out x in", "count", "low-rank pays\nup to rank", "pivoted pays\nup to rank", "rank", "left"
    )
    for (kind, out_features, in_features), rows in groups.items():
        left = sum(row.parameters_after for row in rows) / sum(row.parameters_before for row in rows)
        table.add_row(
            kind,
            f"{out_features}x{in_features}",
            str(len(rows)),
            str(rows[0].lowrank_pays_to),
            str(rows[0].pivoted_pays_to),
            _range([row.rank for row in rows]),
            f"{left:.1%}",
        )
    _say(f"{made.architecture}, {made.recipe.structure}:")
    console.print(table)
    _notes(made.notes)
    _say(_shrunk(made.parameters, made.bytes))
    _say(f"compress would take roughly {made.memory_estimate / 1e9:.1f} GB of memory")


def _range(ranks: list[int | None]) -> str:
    """`128`, `127-128`, `dense`, or `127-128, 2 dense`."""
    numbers = sorted({rank for rank in ranks if rank is not None})
    dense = ranks.count(None)
    if not numbers:
        return "dense"
    span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
    return f"{span}, {dense} dense" if dense else span


def _say(text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _shrunk(count: Any, size: Any) -> str:
    share = count.targets_after / count.targets_before
    return (
        f"{count.before:,} -> {count.after:,} parameters ({count.keep:.1%} of the model; its targets "
        f"{count.targets_before:,} -> {count.targets_after:,}, {share:.1%}), "
        f"{size.before / 1e6:,.1f} -> {size.after / 1e6:,.1f} MB"
    )


def _notes(notes: Iterable[str]) -> None:
    for note in notes:
        _say(f"note: {note}")


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def _print_json(wanted: bool, answer: dict[str, Any]) -> None:
    if wanted:
        sys.stdout.write(json.dumps(answer, allow_nan=False) + "\n")


def _split(names: str | None) -> list[str] | None:
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def _track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """A bar with the time left on a terminal, elsewhere a line a minute."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total, description=description)
        return
    started = said = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if done and now - said >= LOG_SECONDS:
            left = (now - started) / done * (total - done)
            _say(f"{description}: {done} of {total}, about {left:.0f} s left")
            said = now
        yield item


_interrupted_at = -math.inf


def _interrupt(signal_number: int, frame: object) -> None:
    """Stop, and leave the cleaning up in peace: people press Ctrl-C twice, and wrappers send it on."""
    global _interrupted_at
    last, _interrupted_at = _interrupted_at, time.monotonic()
    if _interrupted_at - last > PATIENCE_SECONDS:
        raise Interrupted


@contextmanager
def _errors(debug: bool) -> Iterator[None]:
    """Turn what goes wrong into one short message and an exit code: 2 for the request, 1 for the work."""
    try:
        yield
    except typer.Exit:
        raise
    except BaseException as error:
        if debug:
            traceback.print_exc()
        message, code = _explained(error)
        _say(f"eckart: {message}")
        raise typer.Exit(code) from None


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, EckartError):
        return str(error), error.exit_code
    if isinstance(error, (Interrupted, KeyboardInterrupt)):
        return "interrupted; nothing unfinished was left behind", 1
    if isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY):
        return "out of memory; try a smaller --samples or --max-length, or --dtype bfloat16", 1
    if isinstance(error, OSError):
        return f"{error.filename or 'the system'}: {error.strerror or error}", 1
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"unexpected {type(error).__name__}: {first} (--debug shows where; please report it)", 1
