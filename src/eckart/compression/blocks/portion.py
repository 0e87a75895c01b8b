"""Whether a model is cut as a whole or block by block, and how much of it is in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart import checkpoint
from eckart.estimate.memory import BATCH_TOKENS, Need, need, said
from eckart.evaluation.machine import available
from eckart.model import building, replacing, targets
from eckart.recovery import processes
from eckart.types import Recipe, Target, UsageError

ROOM = 8
"""A model so many times smaller than the memory that is free is cut as a whole, whatever is done to it."""


@dataclass(frozen=True)
class Portion:
    """How a block walk uses memory.

    Attributes:
        batch_tokens: tokens in a batch at most.
        waiting: bytes of activations that may wait in memory.
    """

    batch_tokens: int
    waiting: int


def portion(
    folder: Path, config: Any, recipe: Recipe, blocks: bool | None, memory: int | None, device: str
) -> Portion | None:
    """How a model is cut block by block; `None` where it is cut as a whole.

    Args:
        blocks: one way or the other; `None` leaves it to what fits.
        memory: bytes that may be taken, by each process; default what is free.

    Raises:
        UsageError: so little memory is not enough.
    """
    if blocks is False:
        return None
    shared = processes.on_this_machine() if device == "cpu" else 1
    limit = memory or available(device) // shared
    if blocks is None and memory is None and ROOM * checkpoint.open_checkpoint(folder).nbytes < limit:
        return None
    wanted = needed(building.build_empty(config), recipe)
    if blocks is None and wanted.whole <= limit:
        return None
    if memory is not None and wanted.least > memory:
        raise UsageError(
            f"--memory {said(memory)}: one block of this model at a time takes about {said(wanted.least)}; "
            "allow that, or cut fewer --targets"
        )
    tokens = wanted.batch_tokens(limit) if wanted.token else BATCH_TOKENS
    return Portion(tokens, wanted.waiting(limit))


def needed(empty: Any, recipe: Recipe) -> Need:
    """What a model on the meta device takes."""
    found = targets.find_targets(empty, recipe.targets, recipe.layers).targets
    at: dict[str, list[Target]] = {}
    for target in found:
        block = targets.block_of(empty, target.name)
        at.setdefault(".".join(map(str, block)) if block else "outside", []).append(target)
    stacks = {
        id(parameter)
        for block in targets.stacks_of(empty, [t.name for t in found])
        for parameter in block.parameters()
    }
    item = empty.dtype.itemsize
    outside = sum(each.numel() for each in empty.parameters() if id(each) not in stacks)
    return need(item * replacing.count_parameters(empty), item, at, item * outside, recipe)
