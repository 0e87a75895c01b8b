"""Which linear layers of a saved model are rounded, parts of structures among them."""

from __future__ import annotations

from typing import Any

from torch import nn

from eckart.model.portable.swapping import find_module
from eckart.structures.modules import put
from eckart.structures.quantized import BITS, QuantizedLinear


def require_inner(inner: Any) -> dict[str, str]:
    """What an entry's `inner` says of each module: a key of `BITS`, as `int8`.

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
        modules: module name to a key of `BITS`. What the model's class does not have is left out.

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
