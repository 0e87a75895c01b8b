"""Words in, words out. Every command's logic is elsewhere.

With `--json` standard output holds one JSON object and nothing else; all that is meant for people goes to
standard error.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from eckart import recipes
from eckart.cli.analyzing import analyze
from eckart.cli.bases import bases
from eckart.cli.benching import bench
from eckart.cli.comparing import compare
from eckart.cli.compressing import compress
from eckart.cli.ending import INTERRUPTS, Interrupted, errors, explained, interrupt
from eckart.cli.evaluating import evaluate
from eckart.cli.exporting import export
from eckart.cli.options import WIDTH, Debug, Grouped, Json, filled
from eckart.cli.planning import plan
from eckart.cli.recovering import recover
from eckart.cli.reporting import report
from eckart.cli.saying import console, print_json, say, track
from eckart.cli.sweeping import sweep
from eckart.registration import hush

app = typer.Typer(
    name="eckart",
    help="Make pretrained transformers smaller with low-rank structure, and see what that cost.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": WIDTH},
)
SKILLS = {
    "pocket-math": "math\nexact match",
    "pocket-code": "code\npass@1",
    "pocket-stories": "stories\nperplexity",
}


def main() -> None:
    """The console entry point."""
    for which in INTERRUPTS:
        if signal.getsignal(which) != signal.SIG_IGN:  # as nohup has it, and a shell's background jobs
            signal.signal(which, interrupt)
    try:
        app()
    except Interrupted as error:
        say(f"eckart: {explained(error)[0]}")
        sys.exit(1)


@app.callback()
def _prepare() -> None:
    # What transformers and torch have to say is for programmers; what a user must know, Eckart says.
    hush()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
def demo(
    limit: Annotated[int, typer.Option("--limit", help="Held-out samples of each skill.")] = 200,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The main job on the built-in model: no download, a few minutes."""
    with errors(debug):
        from eckart import pipeline

        say(
            "The pocket model solves word problems, writes small functions and tells stories. Here it is,\n"
            "dense and compressed to 80% and 60% of its parameters; each model is saved, loaded and measured."
        )
        started = time.perf_counter()
        rows = pipeline.demo(limit, track)
        table = Table("method", "keep", "parameters", "MB", *SKILLS.values())
        for row in rows:
            skills = [f"{row.skills[skill]:.3f}" for skill in SKILLS]
            table.add_row(
                row.method, f"{row.keep:g}", f"{row.parameters:,}", f"{row.bytes / 1e6:.2f}", *skills
            )
        console.print(table)
        seconds = time.perf_counter() - started
        say(
            f"{limit} held-out samples a skill, greedy; calibrated on the train split; {seconds:.0f} s.\n"
            "Next, on your own model:\n"
            "  eckart plan MODEL --keep 0.8\n"
            "  eckart compress MODEL -o OUT --keep 0.8 --data FILE\n"
            "  eckart verify OUT"
        )
        print_json(as_json, {"rows": [asdict(row) for row in rows], "seconds": seconds})


for verb in (plan, analyze, compress, recover, evaluate, compare, sweep, bases, bench, export, report):
    app.command(cls=Grouped)(verb)


@app.command()
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder that Eckart saved.", callback=filled)],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check a compressed folder: hashes, shapes, that it loads with and without Eckart, and its values."""
    with errors(debug):
        from eckart import pipeline

        verdict = pipeline.verify(out, track)
        for check in verdict.checks:
            say(f"{'ok    ' if check.ok else 'FAILED'} {check.check}: {check.detail}")
        print_json(
            as_json,
            {"out": verdict.out, "ok": verdict.ok, "checks": [asdict(check) for check in verdict.checks]},
        )
        if not verdict.ok:
            raise typer.Exit(1)


@app.command()
def methods(as_json: Json = False, debug: Debug = False) -> None:
    """The catalogue: each method's row, its paper, and where this implementation departs from it."""
    with errors(debug):
        table = Table("method", "metric", "structure", "allocation", "recovery", "data")
        for row in recipes.METHODS.values():
            data = "needed" if row.needs_data else "none"
            table.add_row(row.name, row.metric, row.structure, row.allocation, row.recovery, data)
        console.print(table)
        for row in recipes.METHODS.values():
            say(f"{row.name}: {row.paper}\n  departure: {row.departure}")
        for name, metric in recipes.METRICS.items():
            say(f"metric {name}: {metric.meaning}")
        rows = [{**asdict(row), "needs_data": row.needs_data} for row in recipes.METHODS.values()]
        print_json(as_json, {"methods": rows})
