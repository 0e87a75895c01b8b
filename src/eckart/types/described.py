"""What a page was made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from eckart.types.shown import Shown
from eckart.types.sweep import Sample


@dataclass(frozen=True, repr=False)
class Described(Shown):
    """What `eckart.describe` gives back.

    Attributes:
        out: the folder with the page.
        kind: what the page is of: `compression`, `analysis`, `comparison`, `sweep` or `bases`.
        files: all that is in `out`, by name; of a page in its own folder what was written there.
        samples: what the models wrote.
        notes: what a reader should know.
        seconds: wall time.
    """

    out: str
    kind: str
    files: list[str]
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def in_a_line(self) -> str:
        """What the page is of, and where it is."""
        one = "" if self.kind == "bases" else "one "
        return f"{self.out}: report.html of {one}{self.kind}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each file."""
        return ("file",), ((name,) for name in self.files)
