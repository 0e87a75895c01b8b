"""What every task gives back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart.types import Shown

LOWER_IS_BETTER = frozenset(
    {"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter"}
)
"""Of Eckart's own metrics and the harness's."""


@dataclass(frozen=True, repr=False)
class Score(Shown):
    """One number with its name, and what else is worth knowing.

    Attributes:
        task: as asked for.
        metric: what `value` is.
        value: the number; `lower_is_better` says of a metric which way is good.
        details: more numbers, by name.
    """

    task: str
    metric: str
    value: float
    details: dict[str, Any] = field(default_factory=dict)

    def in_a_line(self) -> str:
        """The task and the number."""
        return f"{self.task}: {self.metric} {self.value:.4f}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each number."""
        plain = ((name, each) for name, each in self.details.items() if isinstance(each, (int, float, str)))
        return ("", self.task), [(self.metric, self.value), *plain]

    def as_json(self) -> dict[str, Any]:
        return {"task": self.task, "metric": self.metric, "value": self.value, **self.details}


def lower_is_better(metric: str) -> bool:
    """Whether a small value of the metric is a good one; of shares and correlations it is not."""
    # The harness adds a filter's name, and groups have means.
    return metric.removeprefix("mean of ").partition(",")[0] in LOWER_IS_BETTER
