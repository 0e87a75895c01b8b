"""Write the tables of these pages that come from the code: `python docs/tables.py`, a part of `make docs`.

A table stands between `<!-- NAME: docs/tables.py -->` and `<!-- end of NAME -->`. A test fails where a page
is out of date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eckart import recipes, structures, types
from eckart.comparison import protocol
from eckart.recipes.efforts import EFFORTS
from eckart.recipes.names import ALLOCATIONS, RECOVERIES

DOCS = Path(__file__).parent
SAVED: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        types.Manifest,
        types.Recipe,
        types.Selection,
        types.RecoveryRecipe,
        types.Count,
        types.Bytes,
        types.TargetRecord,
        types.Option,
        types.HeldOut,
        types.Candidate,
        types.TrainingRecord,
        types.Learned,
        types.Probe,
        types.Analysis,
        types.Matrix,
        types.Cosine,
        types.Size,
        types.Tied,
        types.Basis,
        types.Sweep,
        types.Cell,
        types.Step,
        types.ComparisonRow,
        protocol.Kept,
    )
}
"""What is saved as JSON or CSV: each has a table of its fields."""


DATA = {True: "needed", False: "none"}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def methods() -> str:
    """The catalogue: a row for each method, then papers and departures."""
    head = ["method", "metric", "structure", "allocation", "recovery", "data"]
    rows = [
        [f"`{row.name}`", row.metric, row.structure, row.allocation, row.recovery, DATA[row.needs_data]]
        for row in recipes.METHODS.values()
    ]
    papers = [
        f"- **`{row.name}`**: {row.paper}. Departure: {row.departure}." for row in recipes.METHODS.values()
    ]
    return f"{table(head, rows)}\n\n" + "\n".join(papers)


def metrics() -> str:
    """Each metric: its Grams, and what it means."""
    head = ["metric", "output side", "input side", "in units of the loss", "meaning"]
    return table(
        head,
        [
            [f"`{name}`", row.left, row.right, "yes" if row.in_loss_units else "no", row.meaning]
            for name, row in recipes.METRICS.items()
        ],
    )


def values() -> str:
    """The values of the other axes."""
    axes = {
        "structure": structures.replacements(),
        "allocation": ALLOCATIONS,
        "recovery": RECOVERIES,
    }
    return table(
        ["axis", "values"], [[axis, ", ".join(f"`{one}`" for one in known)] for axis, known in axes.items()]
    )


def efforts() -> str:
    """What each word of `--effort` stands for."""
    head = ["effort", "tokens that gradients are taken of", "floors that `auto` tries", "tokens of imitation"]
    return table(
        head,
        [
            [
                f"`{name}`",
                f"{effort.gradient_tokens:,}",
                ", ".join(f"{floor:g}" for floor in effort.floors),
                f"{effort.imitated_tokens:,}",
            ]
            for name, effort in EFFORTS.items()
        ],
    )


def meanings(kind: Any) -> dict[str, str]:
    """What each field is, as the docstring of its class says it; several may share one line."""
    said = inspect.getdoc(kind) or ""
    found: dict[str, str] = {}
    for names, words in re.findall(
        r"^    ([\w, ]+): (.*(?:\n {8,}.*)*)", said.partition("Attributes:")[2], flags=re.MULTILINE
    ):
        for name in names.split(","):
            found[name.strip()] = " ".join(words.split()).removesuffix(".")
    return found


def described(kind: Any) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, default and meaning of each field of a model."""
    known = meanings(kind)
    for name, annotation in kind.__annotations__.items():
        if name in kind.model_fields:
            field = kind.model_fields[name]
            default = "" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`"
            yield name, annotation.replace(" | ", " or "), default, known.get(name, "")


def saved(kind: Any) -> str:
    """The fields of a model."""
    return table(
        ["field", "type", "default", "meaning"],
        [[f"`{name}`", f"`{of}`", default, words] for name, of, default, words in described(kind)],
    )


TABLES: dict[str, Callable[[], str]] = {
    "methods": methods,
    "metrics": metrics,
    "values": values,
    "efforts": efforts,
    **{name: (lambda kind=kind: saved(kind)) for name, kind in SAVED.items()},
}


def filled(page: str) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: it asks for a table that there is none of.
    """

    def make(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n\n{TABLES[mark[2]]()}\n\n{mark[3]}"

    return re.sub(r"(<!-- (\w+): docs/tables\.py -->)\n.*?(<!-- end of \2 -->)", make, page, flags=re.DOTALL)


def main() -> None:
    """Fill every page of this folder."""
    for path in sorted(DOCS.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = filled(before)
        if after != before:
            path.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
