"""Rounded weights into modules, and what a model says of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from eckart.structures import QuantizedLinear, Rounded, put
from eckart.structures.quantized import packed

INNER = "torchao"


def put_quantized(model: Any, name: str, rounded: Rounded) -> None:
    """Put a quantized layer in the place of a linear one, or of a part of a structure.

    Args:
        rounded: its weight, `(out, in)`.
    """
    old = model.get_submodule(name)
    numbers, scales, bits = rounded.numbers, rounded.scales, rounded.bits
    out_features, in_features = numbers.shape
    new = QuantizedLinear(in_features, out_features, bits, old.bias is not None, numbers.device, scales.dtype)
    with torch.no_grad():
        new.codes.copy_(numbers if bits == 8 else packed(numbers, bits))
        new.scales.copy_(scales)
        if new.bias is not None:
            new.bias.copy_(old.bias)
    new.train(old.training).requires_grad_(False)
    put(model, name, new)


def inner_of(model: nn.Module) -> dict[str, Any] | None:
    """The entry `inner` of a model's config: which layers are quantized, and to what; `None` without any."""
    modules = {
        name: f"int{module.bits}"
        for name, module in model.named_modules()
        if isinstance(module, QuantizedLinear)
    }
    return {"quant_method": INNER, "modules": modules} if modules else None


def is_quantized(config: Any) -> bool:
    """Whether a config says that layers are quantized."""
    entry = getattr(config, "quantization_config", None)
    return entry is not None and bool(dict(entry).get("inner"))
