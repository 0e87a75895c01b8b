"""A linear layer whose weight is whole numbers and their scales, as torchao rounds it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.model.portable.structures import put
from eckart.model.portable.swapping import find_module

BITS = {"int8": 8, "int4": 4}
"""What a weight may be rounded to."""
KERNEL_ROWS, KERNEL_COLUMNS = 9, 64
"""Of torch's product of int8 numbers. With more rows it is slower than making floats of them first. It reads
so many columns at a time, also past the end of the memory, so their number has to be a multiple."""
GROUP = 32
"""Columns of an int4 weight that share a scale; of an int8 weight a whole row does."""


def shapes_of(bits: int, out_features: int, in_features: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shapes of the codes `(out, bytes)` and the scales `(out, groups)`; the last group may be short."""
    if bits == 8:
        return (out_features, in_features), (out_features, 1)
    return (out_features, -(-in_features // 2)), (out_features, -(-in_features // GROUP))


def packed(numbers: Tensor) -> Tensor:
    """int4 numbers from -8 to 7, `(out, in)` int8, two in a byte, the even column in the lower half."""
    if numbers.shape[1] % 2:
        numbers = functional.pad(numbers, (0, 1))
    raised = (numbers + 8).to(torch.uint8)
    return raised[:, ::2] | (raised[:, 1::2] << 4)


class QuantizedLinear(nn.Module):
    """`y = W x + b`, `W (out, in)` of whole numbers times a scale for each row (int8) or 32 columns (int4).

    The numbers are in `codes`, int8 or two int4 to a byte of uint8, the scales in the model's dtype: plain
    tensors, saved under their own names. What is computed is what torchao's weight-only tensors compute.
    Scales of rows go onto the outputs, which are fewer than the weights; those of groups cannot, so int4
    saves bytes and no time. Weights that are rounded cannot be trained.
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
        pairs = torch.stack([self.codes & 15, self.codes >> 4], dim=-1).flatten(1)
        return pairs[:, : self.in_features].view(torch.int8) - 8

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
        if self.bits == 4:
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


def require_inner(inner: Any) -> dict[str, str]:
    """What an entry's `inner` says of each module: `int8` or `int4`.

    Raises:
        ValueError: it is of another method, or says something else.
    """
    if inner is None:
        return {}
    modules = inner.get("modules") if isinstance(inner, dict) else None
    if not isinstance(modules, dict) or inner.get("quant_method") != "torchao":
        raise ValueError(
            "quantization_config.inner in config.json is not of torchao with a word for each module; "
            "update eckart, or fetch the folder again"
        )
    for name, kind in modules.items():
        if kind not in BITS:
            known = ", ".join(BITS)
            raise ValueError(f"{name}: quantized to {kind!r}, which is none of {known}; update eckart")
    return modules


def quantize_modules(model: nn.Module, modules: dict[str, str]) -> None:
    """Replace the named linear layers, parts of factored ones too, by empty quantized ones, in place.

    Args:
        modules: module name to `int8` or `int4`. What the model's class does not have is left out.

    Raises:
        ValueError: a module that is no linear layer.
    """
    for saved_name, kind in modules.items():
        name = find_module(model, saved_name)
        if name is None:
            continue
        old = model.get_submodule(name)
        if isinstance(old, QuantizedLinear):
            continue
        weight: Any = getattr(old, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim != 2:
            raise ValueError(
                f"the config says that {saved_name} is {kind}, but it is a {type(old).__name__} here: "
                "load it by the class that it was saved from, or fetch the folder again"
            )
        # GPT-2's layers have theirs the other way round.
        out_features, in_features = weight.shape if hasattr(old, "in_features") else weight.shape[::-1]
        new = QuantizedLinear(
            in_features, out_features, BITS[kind], old.bias is not None, weight.device, weight.dtype
        )
        put(model, name, new)
