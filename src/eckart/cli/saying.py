"""What people see: what they asked for on standard output, all else on standard error; and JSON for programs.

What was asked for is tables, summaries and paths. Progress, notes, warnings and errors are the rest. With
`--json` standard output holds one JSON object and nothing else, and all of this goes to standard error.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from eckart.types import UsageError

LOG_SECONDS = 60
LOG_WIDTH = 200
GAP = 3
"""Between two columns of a table."""


@dataclass
class Manner:
    """How this run talks.

    Attributes:
        as_json: standard output is for one JSON object.
        quiet: no notes and no progress.
        verbose: how long each piece of work took, too.
        leads: whether this is the process of several that talks.
        log: where all of it is written as well, with the time.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    leads: bool = True
    log: TextIO | None = None


_manner = Manner()


def settle(*, as_json: bool, quiet: bool, verbose: bool, log: str | None, leads: bool) -> None:
    """Say once how this run talks.

    Raises:
        UsageError: a log that cannot be written.
    """
    _manner.as_json, _manner.quiet, _manner.verbose, _manner.leads = as_json, quiet, verbose, leads
    _manner.log = None
    if log is not None:
        try:
            _manner.log = open(log, "a", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"--log {log}: {error.strerror}") from None


def _console(*, result: bool, width: int | None = None) -> Console:
    """Where a result goes, or what is said beside it. `COLUMNS`, `NO_COLOR` and `TERM` are rich's to read."""
    stderr = _manner.as_json or not result
    height = None
    if os.environ.get("TERM") in ("dumb", "unknown"):
        # rich takes such terminals to be of 80 columns, whatever they say, unless told both.
        size = shutil.get_terminal_size()
        width, height = width or size.columns, size.lines
    quiet = not _manner.leads
    return Console(stderr=stderr, highlight=False, emoji=False, width=width, height=height, quiet=quiet)


def tell(text: str) -> None:
    """A line of what was asked for."""
    _line(text, result=True)


def say(text: str) -> None:
    """A line beside it: what failed, what is going on."""
    _line(text, result=False)


def note(text: str) -> None:
    """A line that somebody who is in a hurry can do without."""
    if not _manner.quiet:
        say(f"note: {text}")


def warn(text: str) -> None:
    """A line that nobody should do without."""
    say(f"warning: {text}")


def show_notes(notes: Iterable[str]) -> None:
    """What a user should know about what was done, a line each."""
    for each in notes:
        note(each)


def _line(text: str, *, result: bool) -> None:
    """Never wrapped; what would steer the terminal is shown, not obeyed."""
    shown = plain(text)
    _console(result=result).print(shown, markup=False, soft_wrap=True)
    if _manner.log is not None:
        _manner.log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {shown}\n")
        _manner.log.flush()


def plain(text: str) -> str:
    """A text in which nothing that steers a terminal is left, but for its lines."""
    return "".join(
        each if each.isprintable() or each == "\n" else each.encode("unicode_escape").decode()
        for each in text
    )


def show_table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    title: str = "",
    caption: str = "",
    lines: bool = False,
) -> None:
    """A table of which no cell is cut: as wide as it is in a pipe, as the terminal on one, or else a list.

    Args:
        head: titles of columns.
        rows: cells, of texts as they stand: none is markup.
        title, caption: above and below.
        lines: whether rows are parted.
    """
    rows = [[plain(cell) for cell in row] for row in rows]
    table = Table(
        *(Column(Text(each), overflow="fold") for each in head),
        box=box.SIMPLE_HEAD,
        title=Text(plain(title)) if title else None,
        title_justify="left",
        caption=Text(caption) if caption else None,
        caption_justify="left",
        show_lines=lines,
        show_edge=False,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = _console(result=True)
    wanted = Measurement.get(console, console.options.update(width=10**4), table)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = _console(result=True, width=max(console.width, wanted.maximum))
    if (widths := _widths([head, *rows], console.width)) is not None:
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        console.print(table)
    else:
        _show_list(console, head, rows, title, caption)
    for column in table.columns:
        column.width = None
    if _manner.log is not None:
        Console(file=_manner.log, width=max(LOG_WIDTH, wanted.maximum), emoji=False).print(table)
        _manner.log.flush()


def _widths(rows: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Widths of columns in which no word is broken; `None` where there is no room for the words."""
    columns = list(zip(*rows, strict=True))
    widths = [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
    least = [
        max((cell_len(word) for cell in column for word in cell.split()), default=0) for column in columns
    ]
    room -= GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:
        widest = max((w, at) for at, w in enumerate(widths) if w > least[at])[1]
        widths[widest] -= 1
    return widths


def _show_list(
    console: Console, head: Sequence[str], rows: Iterable[Sequence[str]], title: str, caption: str
) -> None:
    """Where the columns do not fit beside each other: a row's cells below each other."""
    if title:
        console.print(Text(title))
    names = [" ".join(each.split()) for each in head]
    for first, *rest in rows:
        console.print(Text(first))
        for name, cell in zip(names[1:], rest, strict=True):
            if cell:
                console.print(Text(f"  {name}: {' '.join(cell.split())}"))
    if caption:
        console.print(Text(caption))


def shrunk(count: Any, size: Any) -> str:
    """Sizes before and after, in one line."""
    share = count.targets_after / count.targets_before
    return (
        f"{count.before:,} -> {count.after:,} parameters ({count.keep:.1%} of the model; its targets "
        f"{count.targets_before:,} -> {count.targets_after:,}, {share:.1%}), "
        f"{size.before / 1e6:,.1f} -> {size.after / 1e6:,.1f} MB"
    )


def number(value: Any) -> str:
    """A figure as people read it."""
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"


def print_json(answer: dict[str, Any]) -> None:
    """The one JSON object of a command, on standard output, where it was wanted."""
    if _manner.as_json and _manner.leads:
        sys.stdout.write(json.dumps(answer, allow_nan=False) + "\n")


def track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    """A bar with the time left on a terminal, elsewhere a line a minute; with `--verbose` what it took."""
    started = time.monotonic()
    yield from _tracked(items, description, total)
    if _manner.verbose:
        say(f"{description}: {total:,} in {time.monotonic() - started:.1f} s")


def _tracked(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
    console = _console(result=False)
    if _manner.quiet:
        yield from items
    elif console.is_terminal and not console.is_dumb_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as progress:
            yield from progress.track(items, total, description=description)
    else:
        started = said = time.monotonic()
        for done, item in enumerate(items):
            now = time.monotonic()
            if done and now - said >= LOG_SECONDS:
                left = (now - started) / done * (total - done)
                say(f"{description}: {done} of {total}, about {left:.0f} s left")
                said = now
            yield item
