"""Words in, words out. Every command's logic is elsewhere."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Annotated, Any

import typer

import eckart
from eckart import recipes
from eckart.cli.analyzing import analyze
from eckart.cli.bases import bases
from eckart.cli.benching import bench
from eckart.cli.comparing import compare
from eckart.cli.compressing import compress
from eckart.cli.ending import INTERRUPTS, Interrupted, explained, interrupt
from eckart.cli.evaluating import evaluate
from eckart.cli.exporting import export
from eckart.cli.help import WIDTH, Commands, Grouped
from eckart.cli.options import Failed, filled, verb
from eckart.cli.planning import plan
from eckart.cli.pushing import push
from eckart.cli.recovering import recover
from eckart.cli.reporting import report
from eckart.cli.saying import say, show_table, tell, track
from eckart.cli.sweeping import sweep
from eckart.model import finding
from eckart.registration import hush

NEXT = """\
Eckart makes a pretrained transformer smaller with low-rank structure, and says what that cost.

  eckart demo                                              all of it, on a small model that is built in
  eckart plan MODEL --keep 80%                             what a cut would come to
  eckart compress MODEL -o SMALL --keep 80% --data FILE    the main job
  eckart verify SMALL                                      that it is whole, and loads

MODEL is a folder, a hub id, or pocket. eckart -h lists all commands, eckart COMMAND -h the options of one."""
"""What `eckart` alone says."""

app = typer.Typer(
    name="eckart",
    cls=Commands,
    help="Make pretrained transformers smaller with low-rank structure, and see what that cost.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"max_content_width": WIDTH, "help_option_names": ["-h", "--help"]},
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


def _version(wanted: bool) -> None:
    if wanted:
        tell(f"eckart {version('eckart')}")
        raise typer.Exit


@app.callback()
def _prepare(
    context: typer.Context,
    shown: Annotated[
        bool,
        typer.Option("--version", "-V", help="Say which version this is.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    # What transformers and torch have to say is for programmers; what a user must know, Eckart says.
    hush()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if context.invoked_subcommand is None:
        tell(NEXT)


@verb(None, "eckart demo --limit 20")
def demo(
    limit: Annotated[int, typer.Option("--limit", help="Held-out samples of each skill.")] = 200,
) -> dict[str, Any]:
    """The main job on the built-in model: no download, a few minutes."""
    from eckart.pipeline.demo import demo as measured

    tell(
        "The pocket model solves word problems, writes small functions and tells stories. Here it is,\n"
        "dense and compressed to 80% and 60% of its parameters; each model is saved, loaded and measured."
    )
    started = time.perf_counter()
    rows = measured(limit, track)
    cells = [
        (
            row.method,
            f"{row.keep:g}",
            f"{row.parameters:,}",
            f"{row.bytes / 1e6:.2f}",
            *(f"{row.skills[skill]:.3f}" for skill in SKILLS),
        )
        for row in rows
    ]
    show_table(("method", "keep", "parameters", "MB", *SKILLS.values()), cells)
    seconds = time.perf_counter() - started
    tell(
        f"{limit} held-out samples a skill, greedy; calibrated on the train split; {seconds:.0f} s.\n"
        "Next, on your own model:\n"
        "  eckart plan MODEL --keep 0.8\n"
        "  eckart compress MODEL -o OUT --keep 0.8 --data FILE\n"
        "  eckart verify OUT"
    )
    return {"rows": [asdict(row) for row in rows], "seconds": seconds}


@verb(None, "eckart verify SMALL")
def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder that Eckart saved.", callback=filled)],
) -> dict[str, Any]:
    """Check a compressed folder: hashes, shapes, that it loads with and without Eckart, and its values."""
    finding.require_folder(out)
    verdict = eckart.verify(out, track)
    for check in verdict.checks:
        tell(f"{'ok    ' if check.ok else 'FAILED'} {check.check}: {check.detail}")
    kind = dict if verdict.ok else Failed
    return kind(out=verdict.out, ok=verdict.ok, checks=[asdict(check) for check in verdict.checks])


@verb(None, "eckart methods --json")
def methods() -> dict[str, Any]:
    """The catalogue: each method's row, its paper, and where this implementation departs from it."""
    rows = recipes.METHODS.values()
    show_table(
        ("method", "metric", "structure", "allocation", "recovery", "data"),
        [
            (
                row.name,
                row.metric,
                row.structure,
                row.allocation,
                row.recovery,
                "needed" if row.needs_data else "none",
            )
            for row in rows
        ],
    )
    for row in rows:
        tell(f"{row.name}: {row.paper}\n  departure: {row.departure}")
    for name, metric in recipes.METRICS.items():
        tell(f"metric {name}: {metric.meaning}")
    return {"methods": [{**asdict(row), "needs_data": row.needs_data} for row in rows]}


VERBS = (
    plan,
    compress,
    recover,
    evaluate,
    verify,
    compare,
    analyze,
    sweep,
    bases,
    bench,
    export,
    push,
    report,
)
for each in (demo, *VERBS, methods):
    app.command(cls=Grouped)(each)
