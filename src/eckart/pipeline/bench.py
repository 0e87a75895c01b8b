"""How fast a compressed model is beside another one, and what each takes of memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from eckart.evaluation import speed
from eckart.evaluation.progress import shown
from eckart.evaluation.race import ModelPair, Workload
from eckart.model import loading
from eckart.recipes import verbs
from eckart.recipes.calling import checked
from eckart.types import Race, Track

BATCHES = (1,)
TOKENS, NEW, ROUNDS = 256, 16, 7


@checked(verbs.Bench)
def bench(
    model: str | Path,
    other: str | Path | None = None,
    *,
    batches: Sequence[int] = BATCHES,
    tokens: int = TOKENS,
    new: int = NEW,
    rounds: int = ROUNDS,
    device: str = "cpu",
    dtype: str = "auto",
    fuse: bool = False,
    compiled: bool = False,
    memory: bool = True,
    drop_unused: bool = False,
    track: Track = shown,
) -> Race:
    """Time a model beside another: reading a prompt, and writing token by token, in turns.

    Of a compressed model its targets are timed alone too: the modules that hold factors, one after the other.

    Args:
        model: a folder, a hub id, or `pocket`.
        other: what to compare it with. Default for a compressed model: the same architecture, dense, with
            random weights, whose time is that of the model that it was made from. A dense model is timed by
            itself.
        batches: sequences at once; all is measured for each.
        tokens: in a prompt, and in the cache when writing begins.
        new: tokens written in a round, of which the time of one is reported.
        rounds: each is both models once; medians are reported.
        device, dtype: to run on and in; default as stored.
        fuse: compute one `V` for what reads the same input, as `eckart.fuse` does.
        compiled: compile both models by torch, on a GPU with its graphs, so that starting kernels costs
            nothing.
        memory: whether the peak memory is measured too, which loads each model once more in a process of
            its own.
        drop_unused: read the models without tensors that their classes have no weight for, instead of
            refusing.

    Raises:
        UsageError: the request is wrong.
        EckartError: a model cannot be loaded.
    """
    work = Workload(batches, tokens, new, rounds)
    folder = loading.find_model(model)
    against = None if other is None else loading.find_model(other)
    pair = ModelPair(folder, against, device, dtype, fuse, drop_unused)
    pair.require_room(speed.longest(tokens, new, rounds))
    if compiled:
        pair.compile()
    rows = pair.paces(work, track)
    taken = pair.memory(max(batches), tokens) if memory else [None]
    return Race(
        model=loading.name_of(model, folder),
        other=pair.name_of_other(other),
        device=str(pair.device),
        dtype=str(pair.model.dtype).removeprefix("torch."),
        threads=torch.get_num_threads(),
        fused=fuse,
        compiled=compiled,
        rounds=rounds,
        rows=rows,
        memory=taken[0],
        other_memory=taken[1] if len(taken) > 1 else None,
        notes=pair.notes,
    )
