"""A few of the activations themselves, where sums do not say enough."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, uncached
from eckart.calibrate.rows import Batch, masks_of, module_input, real_tokens
from eckart.calibrate.watch import run_on
from eckart.types import Track, silent


def sample(
    model: Any, spaces: Sequence[str], batches: Sequence[Batch], rows: int, track: Track = silent
) -> dict[str, Tensor]:
    """Run `model` on `batches` and keep a few rows of what the named modules read, evenly over all of it.

    Padding is left out. The same batches give the same rows.

    Args:
        spaces: modules whose first argument is `(…, in)`: one of each input space.
        batches: keyword arguments of the model, with masks where something is padded.
        rows: of each space at most.

    Returns:
        Rows `(n, in)` in the model's dtype, of each space that a token reached.

    Raises:
        PaddingUnknownError: a padded batch reached a module in a shape that no mask explains.
    """
    kept = [_Rows(space, -(-rows // len(batches))) for space in spaces]
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        evaluating(model),
        uncached(model),
        ExitStack() as hooks,
    ):
        for read in kept:
            module = model.get_submodule(read.space)
            hooks.callback(module.register_forward_pre_hook(read, with_kwargs=True).remove)
        for batch in track(batches, "sampling", len(batches)):
            masks = masks_of(batch)
            for read in kept:
                read.masks = masks
            run_on(model, batch)
    return {read.space: _thinned(torch.cat(read.found), rows) for read in kept if read.found}


class _Rows:
    """A forward pre-hook that keeps some rows of each input."""

    def __init__(self, space: str, rows: int) -> None:
        self.space, self.rows = space, rows
        self.masks: list[Tensor] = []
        self.found: list[Tensor] = []

    def __call__(self, module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        real = real_tokens(module_input(positional, named).detach(), self.masks, self.space)
        if len(real):
            self.found.append(_thinned(real, self.rows).clone())


def _thinned(rows: Tensor, count: int) -> Tensor:
    """So many rows at most, evenly spread."""
    if len(rows) <= count:
        return rows
    return rows[torch.arange(count, device=rows.device) * len(rows) // count]
