"""A linear layer whose weight is whole numbers and their scales, as torchao rounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.structures.pieces import INDEX_BYTES, Part, stored_once

BITS = {"int8": 8, "int4": 4, "int3": 3, "int2": 2}
"""What a weight may be rounded to."""
KERNEL_ROWS, KERNEL_COLUMNS = 9, 64
"""Of torch's product of int8 numbers. With more rows it is slower than making floats of them first. It reads
so many columns at a time, also past the end of the memory, so their number has to be a multiple."""
GROUP = 32
"""Columns that share a scale, of a weight of fewer than 8 bits; of an int8 weight a whole row does."""
CHUNKS = {4: 1, 3: 3, 2: 1}
"""Bytes that a whole number of entries fills, by bits."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it is stored: its shape, and the bytes of one entry."""

    shape: tuple[int, ...]
    item: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.item


def shapes_of(bits: int, out_features: int, in_features: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of the codes `(out, bytes)` and the scales `(out, groups)`; the last group may be short."""
    if bits == 8:
        return (out_features, in_features), (out_features, 1)
    chunks = -(-in_features // _in_chunk(bits))
    return (out_features, CHUNKS[bits] * chunks), (out_features, -(-in_features // GROUP))


def packed(numbers: Tensor, bits: int) -> Tensor:
    """Numbers `(out, in)` int8 of fewer than 8 bits, raised to begin at 0, in uint8: the first in the lowest
    bits of a byte, or of three bytes where eight numbers of 3 bits share them, the lowest byte first.
    """
    count = _in_chunk(bits)
    raised = functional.pad(numbers.int(), (0, -numbers.shape[1] % count)) + 2 ** (bits - 1)
    places = bits * torch.arange(count, device=numbers.device, dtype=torch.int32)
    words = (raised.unflatten(1, (-1, count)) << places).sum(2, dtype=torch.int32)
    shifts = 8 * torch.arange(CHUNKS[bits], device=numbers.device, dtype=torch.int32)
    codes: Tensor = ((words[..., None] >> shifts) & 255).to(torch.uint8).flatten(1)
    return codes


def unpacked(codes: Tensor, bits: int, columns: int) -> Tensor:
    """The numbers `(out, columns)` int8 that were packed."""
    shifts = 8 * torch.arange(CHUNKS[bits], device=codes.device, dtype=torch.int32)
    words = (codes.int().unflatten(1, (-1, CHUNKS[bits])) << shifts).sum(2, dtype=torch.int32)
    places = bits * torch.arange(_in_chunk(bits), device=codes.device, dtype=torch.int32)
    raised = (words[..., None] >> places) & (2**bits - 1)
    numbers: Tensor = raised.flatten(1)[:, :columns].to(torch.int8) - 2 ** (bits - 1)
    return numbers


def _in_chunk(bits: int) -> int:
    """Numbers that fill some bytes."""
    return 8 * CHUNKS[bits] // bits


class QuantizedLinear(nn.Module):
    """`y = W x + b`, `W (out, in)` of whole numbers times a scale.

    A scale is of a row (int8) or of 32 columns of it (fewer bits).
    The numbers are in `codes`, int8 or packed into bytes of uint8, the scales in the model's dtype: plain
    tensors, saved under their own names. What is computed is what torchao's weight-only tensors compute.
    Scales of rows go onto the outputs, which are fewer than the weights; those of groups cannot, so fewer
    than 8 bits save bytes and no time. Weights that are rounded cannot be trained.
    """

    codes: Tensor
    scales: Tensor
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bits: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bits = in_features, out_features, bits
        codes, scales = shapes_of(bits, out_features, in_features)
        kind = torch.int8 if bits == 8 else torch.uint8
        self.register_buffer("codes", torch.zeros(codes, dtype=kind, device=device))
        self.register_buffer("scales", torch.zeros(scales, dtype=dtype, device=device))
        empty = nn.Parameter(torch.zeros(out_features, dtype=dtype, device=device)) if bias else None
        self.register_parameter("bias", empty)

    @property
    def weight(self) -> Tensor:
        """A stand-in with the weight's shape and dtype and no values, for models that ask for its dtype."""
        return torch.empty(self.out_features, self.in_features, dtype=self.scales.dtype, device="meta")

    def numbers(self) -> Tensor:
        """The whole numbers, `(out, in)` int8."""
        if self.bits == 8:
            return self.codes
        if self.bits == 4:
            # Several times as fast as by way of wider numbers.
            pairs = torch.stack([self.codes & 15, self.codes >> 4], dim=-1).flatten(1)
            return pairs[:, : self.in_features].view(torch.int8) - 8
        return unpacked(self.codes, self.bits, self.in_features)

    def scaled(self) -> Tensor:
        """The weight `(out, in)` in the dtype of its scales."""
        values = self.numbers().to(self.scales.dtype)
        if self.bits == 8:
            return values.mul_(self.scales)
        short = -self.in_features % GROUP
        if short:
            values = functional.pad(values, (0, short))
        groups: Tensor = values.unflatten(1, (-1, GROUP)) * self.scales[..., None]
        return groups.flatten(1)[:, : self.in_features]

    def forward(self, x: Tensor) -> Tensor:
        if self.bits < 8:
            return functional.linear(x, self.scaled(), self.bias)
        if self._has_kernel(x):
            rows = torch._weight_int8pack_mm(x.flatten(0, -2), self.codes, self.scales[:, 0])
            y: Tensor = rows.view(*x.shape[:-1], self.out_features)
        else:
            y = functional.linear(x, self.codes.to(x.dtype)) * self.scales[:, 0]
        return y if self.bias is None else y + self.bias

    def _has_kernel(self, x: Tensor) -> bool:
        """Whether torch has a product that reads the int8 numbers themselves and is fast: for a few rows, of
        bfloat16, on a CPU. It takes no gradients.
        """
        return (
            not torch.compiler.is_compiling()
            and not (torch.is_grad_enabled() and x.requires_grad)
            and x.device.type == "cpu"
            and x.dtype == self.scales.dtype == torch.bfloat16
            and x.shape[:-1].numel() < KERNEL_ROWS
            and self.in_features % KERNEL_COLUMNS == 0
        )

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, int{self.bits}"


def stored_tensors(parts: Mapping[str, Part], bits: str | None, item: int) -> dict[str, Stored]:
    """What parts are stored as: a rounded matrix `….weight` as its codes and its scales.

    Args:
        bits: a key of `BITS`; `None` where nothing is rounded.
        item: bytes of a float.
    """
    kept = {id(part) for part in stored_once(parts)}
    found: dict[str, Stored] = {}
    for name, part in parts.items():
        if id(part) not in kept:
            continue
        if bits is None or part.role != "matrix" or not part.rounded:
            found[name] = Stored(part.shape, INDEX_BYTES if part.role == "index" else item)
            continue
        stem = name.removesuffix("weight")
        codes, scales = shapes_of(BITS[bits], *part.shape)
        found[f"{stem}codes"], found[f"{stem}scales"] = Stored(codes, 1), Stored(scales, item)
    return found


def float_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors by their names in it, rounded weights as what they stand for."""
    found: dict[str, Tensor] = {}
    for name, child in module.named_modules():
        stem = f"{name}." if name else ""
        if isinstance(child, QuantizedLinear):
            found[f"{stem}weight"] = child.scaled()
            if child.bias is not None:
                found[f"{stem}bias"] = child.bias.detach()
            continue
        for own, tensor in child.named_parameters(recurse=False):
            found[stem + own] = tensor.detach()
        for own, buffer in child.named_buffers(recurse=False):
            found[stem + own] = buffer
    return found
