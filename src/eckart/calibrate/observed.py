"""What was seen of a model, and how what was seen in several runs becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from eckart.types import Moment

INPUT_KINDS = frozenset({"second", "absolute"})
"""Sums over what targets read: `Σ x xᵀ` and `Σ |x|`."""

GRADIENT_KINDS = frozenset({"gradient", "fisher"})
"""Sums over what a loss says to the outputs of targets: `Σ g gᵀ` and the row Fisher."""


@dataclass
class Observed:
    """What was seen.

    Attributes:
        spaces: target name to the name of its input space (its first target's name).
        moments: input space to its sums. A space that no token reached is absent.
        tokens: real tokens in the batches.
        gradients: target to the sums over the gradients at its output. A target whose output no
            gradient reached is absent: the loss does not depend on it.
        kinds: which sums were asked for.
    """

    spaces: dict[str, str]
    moments: Mapping[str, Moment]
    tokens: int
    gradients: Mapping[str, Moment] = field(default_factory=dict)
    kinds: frozenset[str] = INPUT_KINDS


def merge(parts: Sequence[Observed]) -> Observed:
    """The sums of several runs over different data, as one run over all of it would have made them.

    Raises:
        ValueError: no part, or parts of different spaces or kinds.
    """
    if not parts:
        raise ValueError("there is nothing to merge")
    first = parts[0]
    for part in parts[1:]:
        if part.spaces != first.spaces:
            raise ValueError("parts with different input spaces cannot be merged: they saw different targets")
        if part.kinds != first.kinds:
            raise ValueError(
                f"parts with different sums cannot be merged: {sorted(first.kinds)} and {sorted(part.kinds)}"
            )
    return Observed(
        spaces=dict(first.spaces),
        moments=_merge_all([part.moments for part in parts]),
        tokens=sum(part.tokens for part in parts),
        gradients=_merge_all([part.gradients for part in parts]),
        kinds=first.kinds,
    )


def _merge_all(parts: Sequence[Mapping[str, Moment]]) -> dict[str, Moment]:
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: _merge([part[name] for part in parts if name in part]) for name in names}


def _merge(moments: Sequence[Moment]) -> Moment:
    return Moment(
        tokens=sum(moment.tokens for moment in moments),
        second=_total(moment.second for moment in moments),
        absolute=_total(moment.absolute for moment in moments),
        fisher=_total(moment.fisher for moment in moments),
        windows=sum(moment.windows for moment in moments),
    )


def _total(sums: Iterable[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for one in sums:
        if one is not None:
            # A part stays as it was: only the copy is added to.
            total = one.clone() if total is None else total.add_(one)
    return total
