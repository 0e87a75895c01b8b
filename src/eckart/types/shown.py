"""Results that say what they are: in a line at a prompt, as a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape


class Shown:
    """A result. Its class says of itself a line and a table, and people see them."""

    def in_a_line(self) -> str:
        """What it is and what it came to."""
        raise NotImplementedError

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """Titles of columns, and rows."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.in_a_line()}>"

    def _repr_html_(self) -> str:
        """The table, as notebooks ask for it."""
        head, rows = self.in_a_table()
        lines = [f"<caption>{escape(self.in_a_line())}</caption>", _line("th", head)]
        lines += [_line("td", row) for row in rows]
        return f"<table>{''.join(lines)}</table>"


def _line(cell: str, values: Iterable[object]) -> str:
    return f"<tr>{''.join(f'<{cell}>{escape(_words(value))}</{cell}>' for value in values)}</tr>"


def _words(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
