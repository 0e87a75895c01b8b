"""What one process holds of a factored module, and several modules that read one input as one.

Under tensor parallelism a layer is split by outputs (column-parallel: `V` whole, the rows of `U`) or by
inputs (row-parallel: the columns of `V`, `U` whole). Torch only: nothing here knows vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from eckart.structures import Shard


class Joined(torch.nn.Module):
    """Several shards that read one input: one product for all that reads it, then one for each second factor.

    The outputs are those of the shards, one after the other, without their biases.
    """

    gather: Tensor | None

    def __init__(self, shards: Sequence[Shard]) -> None:
        super().__init__()
        self.widths = [shard.first.shape[0] for shard in shards]
        seconds = [
            index for index, shard in enumerate(shards) if shard.second is not None and len(shard.second)
        ]
        self.first = _frozen(torch.cat([shard.first for shard in shards]))
        self.seconds = torch.nn.ParameterList(_frozen(shards[index].second) for index in seconds)
        self.readers = seconds
        gather = None if all(shard.order is None for shard in shards) else _gather(shards)
        self.register_buffer("gather", gather, persistent=False)

    def read(self, x: Tensor) -> Tensor:
        """What reads the input `(..., in)`, of all shards: `(..., sum of their widths)`.

        Of a part of the inputs it is a partial sum, and the smallest thing there is to add over processes.
        """
        return linear(x, self.first)

    def write(self, hidden: Tensor, bias: Tensor | None = None) -> Tensor:
        """The outputs `(..., out)`, of what `read` gave, with a bias `(out)`."""
        blocks = hidden.split(self.widths, dim=-1)
        if len(self.widths) == len(self.readers) == 1 and self.gather is None:
            return linear(hidden, self.seconds[0], bias)
        written = {
            index: linear(blocks[index], second)
            for index, second in zip(self.readers, self.seconds, strict=True)
        }
        if self.gather is None:
            y = torch.cat([written.get(index, block) for index, block in enumerate(blocks)], dim=-1)
        else:
            y = torch.cat([hidden, *written.values()], dim=-1).index_select(-1, self.gather)
        return y if bias is None else y + bias


def _gather(shards: Sequence[Shard]) -> Tensor:
    """The entry of `[all firsts, all seconds]` that each output is."""
    starts = [0]
    for shard in shards:
        starts.append(starts[-1] + shard.first.shape[0])
    after = starts.pop()
    entries = []
    for shard, start in zip(shards, starts, strict=True):
        width = shard.first.shape[0]
        outputs = 0 if shard.second is None else shard.second.shape[0]
        places = shard.order
        if places is None:
            size, offset = (width, 0) if shard.second is None else (outputs, width)
            places = offset + torch.arange(size, device=shard.first.device)
        entries.append(torch.where(places < width, start + places, after + places - width))
        after += outputs
    return torch.cat(entries)


def _frozen(tensor: Tensor | None) -> torch.nn.Parameter:
    assert tensor is not None
    return torch.nn.Parameter(tensor.contiguous(), requires_grad=False)
