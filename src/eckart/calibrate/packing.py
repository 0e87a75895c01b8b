"""What was seen as named tensors and a few words, and back, exactly."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from eckart.calibrate.observed import Observed
from eckart.types import Moment

SUMS = ("second", "absolute", "fisher")
SYMMETRIC = "second"


def pack(observed: Observed) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors by name, and what JSON can say. Of a symmetric sum only the upper triangle is kept."""
    tensors: dict[str, Tensor] = {}
    words: dict[str, Any] = {
        "spaces": observed.spaces,
        "tokens": observed.tokens,
        "kinds": sorted(observed.kinds),
    }
    for part in ("moments", "gradients"):
        moments: dict[str, Moment] = getattr(observed, part)
        words[part] = {name: [moment.tokens, moment.windows] for name, moment in moments.items()}
        for name, moment in moments.items():
            for kind in SUMS:
                total = getattr(moment, kind)
                if total is not None:
                    tensors[f"{part}/{name}/{kind}"] = _upper(total) if kind == SYMMETRIC else total
    return tensors, words


def unpack(tensors: dict[str, Tensor], words: dict[str, Any], device: torch.device | str = "cpu") -> Observed:
    """What was packed.

    Raises:
        ValueError: it is not something that was packed.
    """
    try:
        parts = {
            part: {
                name: Moment(tokens=tokens, windows=windows, **_sums(tensors, f"{part}/{name}", device))
                for name, (tokens, windows) in words[part].items()
            }
            for part in ("moments", "gradients")
        }
        return Observed(
            spaces=words["spaces"],
            tokens=words["tokens"],
            kinds=frozenset(words["kinds"]),
            moments=parts["moments"],
            gradients=parts["gradients"],
        )
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"these are no moments: {error}") from error


def _sums(tensors: dict[str, Tensor], name: str, device: torch.device | str) -> dict[str, Tensor]:
    found = {kind: tensors[f"{name}/{kind}"] for kind in SUMS if f"{name}/{kind}" in tensors}
    return {kind: (_whole(total) if kind == SYMMETRIC else total).to(device) for kind, total in found.items()}


def _upper(square: Tensor) -> Tensor:
    """The rows of the upper triangle, one after another, `(n (n + 1) / 2,)`."""
    # Row by row: a matrix's worth of indices would take more memory than the matrix.
    square = square.cpu()
    return torch.cat([row[at:] for at, row in enumerate(square)])


def _whole(upper: Tensor) -> Tensor:
    size = int((2 * len(upper)) ** 0.5)
    square = upper.new_zeros(size, size)
    lengths = range(size, 0, -1)
    for at, row in enumerate(upper.split(list(lengths))):
        square[at, at:] = row
        square[at:, at] = row
    return square
