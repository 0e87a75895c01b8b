"""What every task gives back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Score:
    """One number with its name, and what else is worth knowing.

    Attributes:
        task: as asked for.
        metric: what `value` is.
        value: the number; `better` says which way is good.
        details: more numbers, by name.
    """

    task: str
    metric: str
    value: float
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {"task": self.task, "metric": self.metric, "value": self.value, **self.details}
