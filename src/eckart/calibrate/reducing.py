"""Sums of several processes, each over its own data, as one process over all of it would have made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, distributed

from eckart.calibrate.sums import dtype_of, mirror
from eckart.types import Moment

SUMS = ("second", "absolute", "fisher")


def reduced(
    moments: Mapping[str, Moment], widths: Mapping[str, int], kinds: Sequence[str], device: torch.device
) -> dict[str, Moment]:
    """Add up what every process has, on all of them: called by all, for the same names.

    Args:
        moments: of this process; what no token of its data reached is absent.
        widths: of each moment's vectors, by name: those that any process may have.
        kinds: which of `SUMS` there are.
        device: where they are summed.

    Returns:
        Those that a token of some process reached.
    """
    whole: dict[str, Moment] = {}
    for name in sorted(widths):
        mine = moments.get(name) or Moment(tokens=0)
        counts = torch.tensor([mine.tokens, mine.windows], dtype=torch.int64, device=device)
        distributed.all_reduce(counts)
        total = Moment(tokens=int(counts[0]), windows=int(counts[1]))
        if not total.tokens:
            continue
        for kind in kinds:
            width = widths[name]
            shape = (width, width) if kind == "second" else (width,)
            own: Tensor | None = getattr(mine, kind)
            part = torch.zeros(shape, dtype=dtype_of(shape), device=device) if own is None else own
            distributed.all_reduce(part)
            setattr(total, kind, part)
        mirror(total)
        whole[name] = total
    return whole
