"""Several processes on one model, as `torchrun` starts them: each has a share of data and of matrices.

They share the folder where finished pieces go, so that they may be on several machines.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

from eckart import calibrate
from eckart.estimate.time import solve_operations
from eckart.recovery import processes
from eckart.structures import Site
from eckart.types import Moment, UsageError

PATIENCE = timedelta(days=7)
"""For one that works alone while the others wait."""

Item = TypeVar("Item")


class Together:
    """The processes of one job; alone, all of it is this one's."""

    def __init__(self, device: str) -> None:
        self.rank, self.size = processes.rank(), processes.world()
        self.device = torch.device(processes.own_device(device))
        if self.size > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if self.device.type == "cuda" else "gloo", timeout=PATIENCE)

    @property
    def leads(self) -> bool:
        """Whether this one does what only one may."""
        return self.rank == 0

    def alone(self) -> Together:
        """This one, with nobody to share with or to wait for."""
        one = copy(self)
        one.rank, one.size = 0, 1
        return one

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            distributed.barrier()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This one's part of the data.

        Raises:
            UsageError: there is nothing for some.
        """
        if len(items) < self.size:
            raise UsageError(
                f"{self.size} processes share {len(items)} windows of data: start fewer, or give more data"
            )
        return list(items[self.rank :: self.size])

    def mine(self, sites: Sequence[Site]) -> list[Site]:
        """This one's part of the sites: the dearest first, each to who has least to do."""
        load = [0] * self.size
        mine = set()
        for site in sorted(sites, key=_cost, reverse=True):
            least = load.index(min(load))
            load[least] += _cost(site)
            if least == self.rank:
                mine.add(site.name)
        return [site for site in sites if site.name in mine]

    def sum(
        self, moments: Mapping[str, Moment], widths: Mapping[str, int], kinds: Sequence[str]
    ) -> dict[str, Moment]:
        """What all have together."""
        return dict(moments) if self.size == 1 else calibrate.reduced(moments, widths, kinds, self.device)

    def end(self) -> None:
        """Part."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def _cost(site: Site) -> int:
    """Of weighing and decomposing matrices: products, and an eigenproblem of about ten more."""
    return sum(solve_operations(target) for target in site.targets)
