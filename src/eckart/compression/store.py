"""Where a model, its moments and its decompositions are while it is cut."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from eckart import calibrate
from eckart.compression.dividing import Divided
from eckart.evaluation import Moved, Reference
from eckart.structures import Site
from eckart.types import Moment, Option, TargetRecord, Track

if TYPE_CHECKING:
    import numpy as np

    from eckart.compression.bench import Bench
    from eckart.compression.imitation import Imitation

OUTSIDE = "outside"
"""Stands for what is in no block."""
FITTED_TOKENS = 2048
"""In a batch that a refit is fitted to: more take more memory."""


class Store(ABC):
    """A model in pieces, its blocks and what is outside of them.

    Attributes:
        model: as it is now.
        device: where the computing is done.
        divided: the windows of the data by what they are for.
        at: the sites of each piece, and of `OUTSIDE`, once a bench was observed.
        observed: moments, or `None` where the metric needs none.
        track: shows progress.
        notes: what stays dense, and why.
        leads: whether this process does what only one may.
        writes: whether finished pieces are written and let go of, so that nothing can be restored.
    """

    model: Any
    device: torch.device
    divided: Divided
    at: dict[str, list[Site]]
    observed: calibrate.Observed | None
    track: Track
    notes: list[str]
    leads: bool = True
    writes: bool = False

    @abstractmethod
    def observe(self, bench: Bench, options: Sequence[Option] | None) -> None:
        """Have what every site reads, and what a loss says back, where it is not known.

        Args:
            options: where they are chosen already: then a piece may be cut as soon as its moments are there.
        """

    @abstractmethod
    def moment(self, space: str, takes: bool) -> tuple[Moment, bool]:
        """What is read in a space, and whether it is the caller's from here on: only if it `takes` it."""

    @abstractmethod
    def pieces(self) -> list[str]:
        """Names of the pieces that have sites and are not finished, `OUTSIDE` last."""

    @abstractmethod
    def piece_of(self, name: str) -> str:
        """The piece that a module is in."""

    @abstractmethod
    def name_of(self, block: nn.Module) -> str:
        """The piece that a block is."""

    @abstractmethod
    def resident(self, piece: str) -> AbstractContextManager[None]:
        """A piece in memory, for as long as this lasts."""

    @abstractmethod
    def walk(self, batches: Sequence[Any]) -> AbstractContextManager[calibrate.Walk]:
        """A pass over batches that halts in front of every block.

        Raises:
            NotWalkableError: the model cannot be run so.
        """

    @abstractmethod
    def install(self, bench: Bench, piece: str, options: dict[str, Option], keep_dense: bool) -> None:
        """Replace the sites of a piece that is in memory by their options, and finish it."""

    @abstractmethod
    def finish(self, bench: Bench, piece: str, records: Sequence[TargetRecord]) -> None:
        """Take a piece whose sites were replaced for finished."""

    @abstractmethod
    def finished(self, piece: str) -> bool:
        """Whether it was, in this run or in one that this goes on with."""

    @abstractmethod
    def recall(self, piece: str) -> None:
        """Have a piece as it was finished."""

    @abstractmethod
    def records(self, bench: Bench) -> list[TargetRecord]:
        """What became of all targets, in the model's order."""

    @abstractmethod
    def undo(self, bench: Bench) -> None:
        """Make all of the model dense again."""

    @abstractmethod
    def reference(self) -> Reference | None:
        """What the dense model says on held-out windows; `None` where nothing is measured."""

    @abstractmethod
    def measure(self, bench: Bench, reference: Reference, several: Sequence[Sequence[Option]]) -> list[Moved]:
        """How far the model moves with its sites replaced by each of several choices of options."""

    @abstractmethod
    def moved(self, reference: Reference) -> Moved:
        """How far the model, as it was finished, is from the dense one."""

    def imitation(self) -> Imitation | None:
        """What a cut model learns from, where it can be trained; a note says why it cannot."""
        return None

    def batches_to_fit(self) -> list[Any]:
        """What a refit is fitted to."""
        return self.divided.fitting(FITTED_TOKENS)

    def has_gradient(self, name: str) -> bool | None:
        """Whether the loss depends on a target, where that is known without its moments."""
        return None

    def keeps_solution(self, name: str) -> bool:
        """Whether a decomposition takes no memory."""
        return False

    def lost(self, site: Site) -> dict[str, np.ndarray] | None:
        """What a site loses at each size, where that was kept."""
        return None

    def remember(self, kind: str, words: dict[str, Any]) -> None:  # noqa: B027
        """Keep what was decided, for a run that goes on with this one."""

    def remembered(self, kind: str) -> dict[str, Any] | None:
        """What was decided in a run that this goes on with."""
        return None
