"""Whether a rank that was chosen makes a layer any faster on this machine: fewer parameters need not."""

from __future__ import annotations

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

PHASES = {"for one token": 1, "for 64 tokens at once": 64}
LEAST_GAIN = 1.05
"""Times as fast as dense. Below it, what is gained is less than what measuring it is off by."""
COPIES, COPIES_BYTES = 8, 2**26
"""Of a layer, timed one after the other: in a model too its weights come from memory, not from a cache."""
ROUNDS, RANKS = 5, 3
"""Ranks of one shape that are timed at most; those between them are interpolated."""
SHOWN = 3
"""Shapes that are named, those that gained least first."""


def slower(records: Sequence[TargetRecord], dtype: torch.dtype, device: str) -> list[str]:
    """Say which factored layers are no faster than dense ones, by timing layers of their shapes and ranks."""
    shapes: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for record in records:
        if record.rank is not None and record.structure != "dense":
            shapes[record.out_features, record.in_features, record.structure].append(record.rank)
    said = []
    for phase, rows in PHASES.items():
        found: list[tuple[int, float, str]] = []
        for (out_features, in_features, structure), ranks in shapes.items():
            timed = sorted(set(np.quantile(ranks, np.linspace(0, 1, RANKS), method="nearest").tolist()))
            gains = [_gain(out_features, in_features, structure, rank, rows, dtype, device) for rank in timed]
            slow = [rank for rank in ranks if np.interp(rank, timed, gains) < LEAST_GAIN]
            if slow:
                least = min(gains)
                what = f"{out_features}x{in_features} at rank {_span(slow)} {least:.2f} times as fast"
                found.append((len(slow), least, what))
        if found:
            found.sort(key=lambda each: each[1])
            worst = "; ".join(what for _, _, what in found[:SHOWN])
            more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
            count, all_ = sum(count for count, _, _ in found), sum(map(len, shapes.values()))
            said.append(
                f"{count} of {all_} factored weights are no faster than dense on this machine {phase}: "
                f"{worst}{more}"
            )
    return said


@torch.inference_mode()
def _gain(
    out_features: int, in_features: int, structure: str, rank: int, rows: int, dtype: torch.dtype, device: str
) -> float:
    """How many times as fast as a dense layer one with factors of this rank is."""
    size = out_features * in_features * dtype.itemsize
    copies = max(1, min(COPIES, COPIES_BYTES // size))
    options: dict[str, Any] = {"bias": False, "dtype": dtype, "device": "meta"}
    dense = [_filled(nn.Linear(in_features, out_features, **options), device) for _ in range(copies)]
    layer = structures.find(structure).layer
    shape = Shape(out_features, in_features)
    factored = [_filled(layer(shape, rank, "meta", dtype), device) for _ in range(copies)]
    place = torch.device(device)
    works = [speed.through(each, 1, rows, place, dtype) for each in (factored, dense)]
    return speed.paired(works[0], works[1], place, ROUNDS).ratio


def _filled(module: nn.Module, device: str) -> nn.Module:
    """A module with values that are quickly made; how long it takes does not depend on them."""
    module.to_empty(device=device)
    for parameter in module.parameters():
        parameter.fill_(0.01)
    for buffer in module.buffers():
        torch.arange(len(buffer), out=buffer)
    return module.eval()


def _span(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if min(ranks) == max(ranks) else f"{min(ranks)}-{max(ranks)}"
