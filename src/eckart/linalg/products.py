"""Products that are as exact as they need be, and no slower."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

HALF = (torch.bfloat16, torch.float16)
PRODUCTS: frozenset[Callable[..., Any]] = frozenset(
    {
        torch.nn.functional.linear,
        torch.nn.functional.conv1d,
        torch.nn.functional.conv2d,
        torch.nn.functional.scaled_dot_product_attention,
        torch.matmul,
        torch.mm,
        torch.bmm,
        torch.addmm,
        torch.baddbmm,
        torch.einsum,
        Tensor.matmul,
        Tensor.__matmul__,
        Tensor.bmm,
        Tensor.mm,
    }
)


@contextmanager
def products_of(dtype: torch.dtype) -> Iterator[None]:
    """Float32 products on the CPU of numbers that came as `dtype`.

    Of bfloat16 ones the hardware's own bfloat16 products, summed in float32, are exact and twice as fast.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if dtype == torch.bfloat16 and has_products(dtype):
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@functools.cache
def has_products(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies numbers of this dtype by instructions of its own.

    Where it has none, torch takes about eight times as long as for float32.
    """
    if dtype not in HALF:
        return True
    cpu: Any = torch.cpu
    if torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2", "AVX512"):  # not x86
        return True
    if dtype == torch.bfloat16:
        return bool(cpu._is_avx512_bf16_supported() or cpu._is_amx_tile_supported())
    return bool(cpu._is_amx_fp16_supported())


def wide_products() -> Any:
    """A context in which half-precision products on a CPU without instructions for them go by way of float32.

    What they give is rounded once, to the dtype that it would have had: what the instructions give, which
    sum in float32 too. Elsewhere it does nothing. It holds for the thread that enters it.
    """
    return nullcontext() if all(map(has_products, HALF)) else _Wide()


class _Wide(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        # What stands for a tensor, as a quantized one or an expert's factors, has products of its own.
        plain = func in PRODUCTS and all(each in (Tensor, Parameter) for each in types)
        dtype = _narrow(_tensors((*args, *kwargs.values()))) if plain else None
        if dtype is None:
            return func(*args, **kwargs)
        wide = [tree_map_only(Tensor, _widened, each) for each in (args, kwargs)]
        return func(*wide[0], **wide[1]).to(dtype)


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    for each in values:
        if isinstance(each, Tensor):
            yield each
        elif isinstance(each, (tuple, list)):
            yield from _tensors(each)


def _widened(tensor: Tensor) -> Tensor:
    # A mask of attention is of truth values.
    return tensor.float() if tensor.is_floating_point() else tensor


def _narrow(tensors: Iterable[Tensor]) -> torch.dtype | None:
    """The dtype that all numbers among them have, where products of it are slow here."""
    found = {(each.dtype, each.device.type) for each in tensors if each.is_floating_point()}
    if len(found) != 1:
        return None
    ((dtype, device),) = found
    return dtype if device == "cpu" and not has_products(dtype) else None
