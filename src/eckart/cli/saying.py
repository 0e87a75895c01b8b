"""What people see, on standard error: lines, tables, notes and progress; and the JSON that programs read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from eckart.pipeline import LoraPlan, Plan, PlannedSite
    from eckart.types import Option

console = Console(stderr=True, highlight=False, emoji=False)

LOG_SECONDS = 60


def show_plan(made: Plan) -> None:
    """The plan as a table, its notes, and what it comes to."""
    groups: dict[tuple[str, int, int], list[PlannedSite]] = {}
    for row in made.sites:
        target = row.site.targets[0]
        # An expert goes by the name of all of them.
        kind = next(part for part in reversed(target.name.split(".")) if not part.isdigit())
        groups.setdefault((kind, target.out_features, target.in_features), []).append(row)
    pays = [f"{name} pays\nup to" for name in made.sites[0].break_even]
    table = Table("weight", "out x in", "count", *pays, "option", "left")
    for (kind, out_features, in_features), rows in groups.items():
        left = sum(row.parameters_after for row in rows) / sum(row.parameters_before for row in rows)
        table.add_row(
            kind,
            f"{out_features}x{in_features}",
            str(len(rows)),
            *map(str, rows[0].break_even.values()),
            _options([row.option for row in rows]),
            f"{left:.1%}",
        )
    say(f"{made.architecture}, {made.recipe.structure}:")
    console.print(table)
    show_sharing(made)
    show_notes(made.notes)
    say(shrunk(made.parameters, made.bytes))
    whole, block = (f"{size / 1e9:.1f} GB" for size in (made.memory.whole, made.memory.least))
    say(
        f"compress would take roughly {whole} of memory, or {block} with one block of the model at a time "
        f"(--memory), and {_duration(made.compress_seconds)} of computing here"
    )


def show_sharing(made: Plan | LoraPlan) -> None:
    """How much of a model is embeddings, and what tied weights save."""
    total = made.parameters if isinstance(made.parameters, int) else made.parameters.before
    say(f"embeddings: {made.embedding_parameters:,} parameters ({made.embedding_parameters / total:.1%})")
    for group in made.tied:
        say(
            f"tied: {' = '.join(group.names)}: one weight of {group.parameters:,} parameters, which saves "
            f"{group.saved:,}"
        )


def _duration(seconds: float) -> str:
    """Roughly: `20 s`, `4 min`, `3 h`."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, round(seconds))} s"


def _options(options: list[Option]) -> str:
    """`128`, `127-128`, `dense`, or `127-128, 2 dense`; of several structures each with its name."""
    sizes: dict[str, list[int]] = {}
    for option in options:
        if option.structure != "dense" and option.size is not None:
            sizes.setdefault(option.structure, []).append(option.size)
    dense = sum(option.structure == "dense" for option in options)
    if not sizes:
        return "dense"
    spans = [
        (f"{name} " if len(sizes) > 1 else "")
        + (str(min(each)) if min(each) == max(each) else f"{min(each)}-{max(each)}")
        for name, each in sizes.items()
    ]
    return ", ".join([*spans, *([f"{dense} dense"] if dense else [])])


def say(text: str) -> None:
    """A line for people, never wrapped; what would steer their terminal is shown, not obeyed."""
    shown = "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )
    console.print(shown, markup=False, soft_wrap=True)


def shrunk(count: Any, size: Any) -> str:
    """Sizes before and after, in one line."""
    share = count.targets_after / count.targets_before
    return (
        f"{count.before:,} -> {count.after:,} parameters ({count.keep:.1%} of the model; its targets "
        f"{count.targets_before:,} -> {count.targets_after:,}, {share:.1%}), "
        f"{size.before / 1e6:,.1f} -> {size.after / 1e6:,.1f} MB"
    )


def show_notes(notes: Iterable[str]) -> None:
    """What a user should know about what was done, a line each."""
    for note in notes:
        say(f"note: {note}")


def number(value: Any) -> str:
    """A figure as people read it."""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def print_json(wanted: bool, answer: dict[str, Any]) -> None:
    """The one JSON object of a command, on standard output, where it was wanted."""
    if wanted:
        sys.stdout.write(json.dumps(answer, allow_nan=False) + "\n")


def track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
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
            say(f"{description}: {done} of {total}, about {left:.0f} s left")
            said = now
        yield item
