"""What LoRA adapters cost, before any is trained: a config is enough."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eckart.estimate import counting
from eckart.model import building, loading
from eckart.model import targets as targets_
from eckart.recipes import verbs
from eckart.recipes.calling import checked
from eckart.types import Shown, Target, Tied, UsageError

RANKS = (4, 8, 16, 32, 64)
TRAINED_BYTES = 12
"""For each parameter that is trained in float32 with Adam: itself and two moments."""


@dataclass(frozen=True)
class Adapter:
    """An adapter of one rank `r` on every target: `A (r, in)` and `B (out, r)` for each.

    Attributes:
        parameters: `Σ r (out + in)`.
        share: of the model's parameters.
        bytes: in the model's dtype.
        training_bytes: in float32 with Adam's two moments; gradients are as large as the float32 weights
            once more, and activations and the frozen model come on top.
    """

    rank: int
    parameters: int
    share: float
    bytes: int
    training_bytes: int


@dataclass(frozen=True)
class AdaptedShape:
    """The targets of one kind and shape.

    Attributes:
        kind: the name within the block, as `self_attn.q_proj`.
        count: how many there are.
        break_even: `out·in / (out + in)`, rounded down: beyond it an adapter is larger than the weight.
    """

    kind: str
    out_features: int
    in_features: int
    count: int
    break_even: int


@dataclass(frozen=True, repr=False)
class LoraPlan(Shown):
    """What `eckart plan --lora` knows.

    Attributes:
        parameters, targets_parameters: of the model as it is, and of the weights that get an adapter.
        bytes: of the model in its own dtype.
    """

    architecture: str
    parameters: int
    targets_parameters: int
    bytes: int
    targets: list[Target]
    rows: list[Adapter]
    shapes: list[AdaptedShape]
    embedding_parameters: int
    tied: list[Tied]
    seconds: float
    notes: list[str] = field(default_factory=list)

    def in_a_line(self) -> str:
        """The model, and what gets an adapter."""
        count, size = len(self.targets), f"{self.parameters:,} parameters"
        return f"{self.architecture}: adapters on {count} of its weights, {size}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each rank."""
        head = ("rank", "parameters", "share", "MB", "MB to train")
        rows = (
            (row.rank, row.parameters, row.share, row.bytes / 1e6, row.training_bytes / 1e6)
            for row in self.rows
        )
        return head, rows


@checked(verbs.PlanOrLora)
def plan_lora(
    model: str | Path,
    *,
    ranks: Sequence[int] = RANKS,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
) -> LoraPlan:
    """Count what LoRA adapters (Hu et al. 2021, arXiv 2106.09685) would have, with no weights and no data.

    They are counted as peft makes them by default: no bias, one pair of factors for each target.

    Args:
        model: a folder with at least a `config.json`, a hub id, or `pocket`. It may be one that Eckart
            compressed: then its factors are the targets.
        ranks: of the adapters, each 1 or more.
        targets, layers: as for `compress`; default every linear layer in the blocks.

    Raises:
        UsageError: the request is wrong.
    """
    started = time.perf_counter()
    if not ranks or min(ranks) < 1:
        raise UsageError(f"--ranks {','.join(map(str, ranks))}: give ranks of 1 or more, as 8,16")
    folder = loading.find_model(model, weights=False)
    empty = building.build_empty(loading.load_config(folder))
    found = targets_.find_targets(empty, targets, layers)
    counted = counting.count(folder, empty)
    rows = []
    for rank in dict.fromkeys(ranks):
        size = sum(rank * (t.out_features + t.in_features) for t in found.targets)
        rows.append(
            Adapter(
                rank=rank,
                parameters=size,
                share=size / counted.parameters,
                bytes=size * empty.dtype.itemsize,
                training_bytes=size * TRAINED_BYTES,
            )
        )
    shapes = _shapes(empty, found.targets)
    return LoraPlan(
        architecture=type(empty).__name__,
        parameters=counted.parameters,
        targets_parameters=sum(t.out_features * t.in_features for t in found.targets),
        bytes=counted.parameters * empty.dtype.itemsize,
        targets=found.targets,
        rows=rows,
        shapes=shapes,
        embedding_parameters=counted.embedding_parameters,
        tied=counted.tied,
        seconds=time.perf_counter() - started,
        notes=[f"no adapter counted: {note}" for note in found.notes]
        + counted.notes
        + _larger(shapes, max(ranks)),
    )


def _shapes(empty: Any, found: Sequence[Target]) -> list[AdaptedShape]:
    groups: dict[tuple[str, int, int], int] = {}
    for target in found:
        block = targets_.block_of(empty, target.name)
        kind = target.name if block is None else target.name.removeprefix(f"{block[0]}.{block[1]}.")
        key = (kind, target.out_features, target.in_features)
        groups[key] = groups.get(key, 0) + 1
    return [
        AdaptedShape(kind, out, into, count, out * into // (out + into))
        for (kind, out, into), count in groups.items()
    ]


def _larger(shapes: Sequence[AdaptedShape], rank: int) -> list[str]:
    """A note on each shape whose adapter would be larger than the weight."""
    beyond = {(s.out_features, s.in_features): s.break_even for s in shapes if s.break_even < rank}
    return [
        f"beyond rank {even} an adapter is larger than a {out}x{into} weight itself"
        for (out, into), even in beyond.items()
    ]
