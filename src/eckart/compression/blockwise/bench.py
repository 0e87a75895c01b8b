"""A bench whose moments and decompositions are on disk, and whose weights come and go with their block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eckart import calibrate, linalg
from eckart.compression.bench import Workbench
from eckart.compression.blockwise.units import KeptMoments, Units
from eckart.types import Moment, Recipe, Spectrum, Target, Track

INPUTS, GRADIENTS, SOLVED, SPECTRA = "inputs", "gradients", "solved", "spectra"


class Stored(linalg.Decomposition):
    """A decomposition of which the factors at its largest rank are kept: those of less are parts of them."""

    def __init__(self, units: Units, name: str, device: Any, spectrum: Spectrum) -> None:
        super().__init__(torch.empty(0), linalg.Side(), spectrum)
        object.__setattr__(self, "_at", (units, name, device))

    def factors(self, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        units, name, device = self._at  # type: ignore[attr-defined]
        tensors, _ = units.get(SOLVED, name)
        return tensors["U"][:, :rank].to(device).double(), tensors["V"][:rank].to(device).double()


class BlockBench(Workbench):
    """As a `Workbench`, for targets of which those of one block at a time have a weight in memory."""

    def __init__(
        self, model: Any, targets: Sequence[Target], recipe: Recipe, units: Units, device: Any, track: Track
    ) -> None:
        self.units, self.device = units, device
        self.inputs = KeptMoments(units, INPUTS, device)
        self.gradients = KeptMoments(units, GRADIENTS, device)
        self.felt: dict[str, bool] = {}
        self._adopted: dict[str, linalg.Side] = {}
        observed = calibrate.Observed({}, self.inputs, 0, self.gradients)  # type: ignore[arg-type]
        super().__init__(model, targets, recipe, observed, track)

    @property
    def spaces(self) -> dict[str, str]:
        """Target to input space."""
        assert self.observed is not None
        return self.observed.spaces

    def take(self, inputs: Mapping[str, Moment], gradients: Mapping[str, Moment]) -> None:
        """Have the moments of one block in memory."""
        self.inputs.live, self.gradients.live = dict(inputs), dict(gradients)
        self.done()

    def done(self) -> None:
        """Give up what was made of the moments of a block."""
        self._left = self._right = None
        self._adopted.clear()

    def _inputs(self, name: str) -> linalg.Side:
        space = self.spaces[name] if self.metric.right == "second-moment" else None
        if space is None:
            return super()._inputs(name)
        if space not in self._adopted:
            # It is the side's from here on: a copy of it may be as large as the block.
            own = space in self.inputs.live
            moment = self.inputs.live.pop(space) if own else self.inputs[space]
            self._adopted[space] = linalg.Side.from_second_moment(moment, own=own)
        return self._adopted[space]

    def solve(self, target: Target) -> None:
        """Decompose a target that is in memory with its moments, and keep what comes out."""
        solved = self.decomposition(target)
        U, V = solved.factors(self.weight(target.name), solved.basis.shape[1])
        self.units.put(SOLVED, target.name, {"U": U.float(), "V": V.float()}, {})
        spectrum = {
            "values": torch.from_numpy(solved.spectrum.values),
            "tail": torch.from_numpy(solved.spectrum.tail),
        }
        self.units.put(SPECTRA, target.name, spectrum, {"felt": super()._has_gradient(target.name)})
        self.forget(target)

    def recall(self, target: Target) -> None:
        """What `solve` kept of a target; its factors come when they are asked for."""
        spectrum, words = self.units.get(SPECTRA, target.name)
        self.felt[target.name] = words["felt"]
        whole = Spectrum(spectrum["values"].numpy(), spectrum["tail"].numpy())
        self._solved[target.name] = Stored(self.units, target.name, self.device, whole)

    def forget(self, target: Target) -> None:
        if not isinstance(self._solved.get(target.name), Stored):
            super().forget(target)

    def _has_gradient(self, name: str) -> bool:
        return self.felt[name] if name in self.felt else super()._has_gradient(name)
