"""Products that are as exact as they need be, and no slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def products_of(dtype: torch.dtype) -> Iterator[None]:
    """Float32 products on the CPU of numbers that came as `dtype`.

    Of bfloat16 ones the hardware's own bfloat16 products, summed in float32, are exact and twice as fast.
    """
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    if dtype == torch.bfloat16:
        matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
