"""Which ranks make a layer faster on this machine, and whether those that were chosen do: fewer parameters
need not.
"""

from __future__ import annotations

import copy
import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from eckart import structures
from eckart.evaluation import speed
from eckart.structures import Shape
from eckart.types import TargetRecord

PHASES = {"a token by itself": 1, "64 tokens at once": 64}
LEAST_GAIN = 1.0
"""Times as fast as dense. What is above it gained something, and is not spoken of."""
COPIES, COPIES_BYTES = 8, 2**26
"""Of a layer, timed one after the other: in a model too its weights come from memory, not from a cache."""
ROUNDS, RANKS = 9, 3
"""Ranks of one shape that are timed at most; those between them are interpolated."""
FEW_ROUNDS, LONG = 3, 2**25
"""Rounds of a layer that takes so many products at once: nothing short comes between."""
SETTINGS = (1, 16, 128)
"""Rows at once, of what is to be fast: a token by itself, one of each of sixteen texts, a prompt."""
MARGIN = 1.05
"""Times as fast as dense that a layer alone should be, so that it is no slower in a model."""
HALVINGS = 4


def slower(records: Sequence[TargetRecord], dtype: torch.dtype, device: str) -> list[str]:
    """Say whether what was cut is slower than dense weights, by timing layers of their shapes and ranks.

    One line of all cut weights together, or none: of a single shape nobody can change anything. The figures
    are this machine's, the least of several rounds, which other work only touches if it never rests.
    """
    shapes: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for record in records:
        plain = record.structure == "dense" or structures.find(record.structure).channels
        if record.rank is not None and not plain:
            shapes[record.out_features, record.in_features, record.structure].append(record.rank)
    gains = {}
    for phase, rows in PHASES.items():
        after = before = 0.0
        for (out_features, in_features, structure), ranks in shapes.items():
            timed = sorted(set(np.quantile(ranks, np.linspace(0, 1, RANKS), method="nearest").tolist()))
            pairs = [
                _seconds(out_features, in_features, structure, rank, rows, dtype, device) for rank in timed
            ]
            after += float(np.interp(ranks, timed, [factored for factored, _ in pairs]).sum())
            before += len(ranks) * min(dense for _, dense in pairs)
        if after:
            gains[phase] = before / after
    if all(gain >= LEAST_GAIN for gain in gains.values()):
        return []
    said = ", ".join(f"{gain:.2f} times as fast for {phase}" for phase, gain in gains.items())
    return [
        f"beside dense ones the cut weights are {said} on this machine; what gains more: a smaller size, "
        "larger matrices alone (--targets), another --structure"
    ]


@functools.cache
def largest_faster(shape: Shape, structure: str, most: int, dtype: torch.dtype, device: str) -> int:
    """The largest size, to a sixteenth of `most`, at which a layer is faster than dense at all `SETTINGS`.

    Larger sizes are taken to be slower.

    Returns:
        0 where none is found.
    """

    def faster(size: int) -> bool:
        timed = (
            _seconds(shape.out_features, shape.in_features, structure, size, rows, dtype, device)
            for rows in SETTINGS
        )
        return all(MARGIN * factored <= dense for factored, dense in timed)

    found, above = 0, most + 1
    for _ in range(HALVINGS):
        middle = (found + above) // 2
        if middle in (found, above):
            break
        found, above = (middle, above) if faster(middle) else (found, middle)
    return found


@functools.cache
@torch.inference_mode()
def _seconds(
    out_features: int, in_features: int, structure: str, rank: int, rows: int, dtype: torch.dtype, device: str
) -> tuple[float, float]:
    """What a layer with factors of this rank takes, and a dense one beside it; timed once in a process."""
    size = out_features * in_features * dtype.itemsize
    long = rows * out_features * in_features > LONG
    copies = 1 if long else max(1, min(COPIES, COPIES_BYTES // size))
    options: dict[str, Any] = {"bias": False, "dtype": dtype, "device": "meta"}
    layer = structures.find(structure).layer
    factored = _filled(layer(Shape(out_features, in_features), rank, "meta", dtype), device)
    dense = _filled(nn.Linear(in_features, out_features, **options), device)
    place = torch.device(device)
    works = [
        speed.through([copy.deepcopy(each) for _ in range(copies)], 1, rows, place, dtype)
        for each in (factored, dense)
    ]
    return speed.least(works[0], works[1], place, FEW_ROUNDS if long else ROUNDS)


def _filled(module: nn.Module, device: str) -> nn.Module:
    """A module with values that are quickly made; how long it takes does not depend on them."""
    module.to_empty(device=device)
    for parameter in module.parameters():
        parameter.fill_(0.01)
    for buffer in module.buffers():
        torch.arange(len(buffer), out=buffer)
    return module.eval()
