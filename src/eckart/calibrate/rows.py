"""What a module reads, which rows of it are real tokens, and which window each belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from eckart.types import EckartError

Batch = dict[str, Tensor]

GLANCE_TOKENS = 16
"""Enough to see which modules run, and which of them are handed the same tensor."""


class PaddingUnknownError(EckartError):
    """An input's shape fits no mask of a padded batch: run without padding."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} reads its input in a shape that no mask explains, so padding would count: "
            "leave it out with --targets"
        )


def module_input(positional: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """A module's first argument, whichever way it was handed over."""
    first: Tensor = positional[0] if positional else next(iter(named.values()))
    return first


def first_tokens(batch: Batch) -> Batch:
    """The first few tokens of the first window."""
    return {key: value[:1, :GLANCE_TOKENS] for key, value in batch.items() if value.ndim > 1}


def masks_of(batch: Batch) -> list[Tensor]:
    """The masks, `(windows, positions)` bool, of what is read and of what an encoder-decoder writes.

    Without a mask, every position is real.
    """
    masks = []
    for ids, mask in (("input_ids", "attention_mask"), ("decoder_input_ids", "decoder_attention_mask")):
        if mask in batch:
            masks.append(batch[mask].bool())
        elif ids in batch:
            masks.append(torch.ones_like(batch[ids], dtype=torch.bool))
    return masks


def count_tokens(batches: Sequence[Batch]) -> int:
    """Real tokens that are read, and of an encoder-decoder also those that are written."""
    return sum(int(mask.sum()) for batch in batches for mask in masks_of(batch))


def real_tokens(x: Tensor, masks: list[Tensor], name: str) -> Tensor:
    """The rows `(tokens, width)` of an activation `(…, width)` that are not padding.

    Raises:
        PaddingUnknownError: something is padded, and the shape does not say what; `name` is the module.
    """
    rows = x.reshape(-1, x.shape[-1])
    mask = _mask_of(x, masks)
    if mask is not None:
        return rows if bool(mask.all()) else rows[mask.flatten()]
    if not all(bool(mask.all()) for mask in masks):
        raise PaddingUnknownError(name)
    return rows


def windows_of(x: Tensor, masks: list[Tensor]) -> list[Tensor] | None:
    """The real rows of each window, or `None` where the shape does not say where one ends."""
    mask = _mask_of(x, masks)
    if mask is None:
        return None
    rows = x.reshape(*mask.shape, x.shape[-1])
    full = bool(mask.all())
    return [row if full else row[real] for row, real in zip(rows, mask, strict=True)]


def _mask_of(x: Tensor, masks: list[Tensor]) -> Tensor | None:
    """The mask of an activation: of its own shape, or flattened as the activation is."""
    return next((mask for mask in masks if x.shape[:-1] in (mask.shape, mask.flatten().shape)), None)


def widened(x: Tensor) -> Tensor:
    """In float32, or as it is where it is wider: what sums are made of."""
    return x if x.dtype == torch.float64 else x.float()
