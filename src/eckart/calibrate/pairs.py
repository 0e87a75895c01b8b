"""What a target reads in a model and in what became of it, token for token."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Pair:
    """Sums over tokens of an input `x` before and `x̂` after, float64.

    Attributes:
        cross: `Σ x x̂ᵀ`, `(in, in)`.
        second: `Σ x̂ x̂ᵀ`, `(in, in)`.
        tokens: how many were added.
    """

    tokens: int = 0
    cross: Tensor | None = None
    second: Tensor | None = None

    def add(self, before: Tensor, after: Tensor) -> None:
        """Add what was read in one batch, both `(tokens, in)`."""
        before, after = before.float(), after.float()
        cross, second = (before.T @ after).double(), (after.T @ after).double()
        self.cross = cross if self.cross is None else self.cross.add_(cross)
        self.second = second if self.second is None else self.second.add_(second)
        self.tokens += len(after)
