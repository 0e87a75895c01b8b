"""The products that moments are made of lose nothing, whichever way the hardware takes."""

from __future__ import annotations

import pytest
import torch

from eckart.calibrate.sums import LEAST_WIDTH, _gram
from eckart.linalg import products_of


@pytest.mark.parametrize("width", [3, LEAST_WIDTH, 2 * LEAST_WIDTH + 1, 4 * LEAST_WIDTH])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_gram_is_the_product_to_float32_rounding(width, dtype):
    torch.manual_seed(0)
    x = torch.randn(500, width).to(dtype).float()
    exact = x.double().T @ x.double()
    with products_of(dtype):
        gram = _gram(x)
    assert float((gram - exact).abs().max() / exact.abs().max()) < 5e-6


def test_float32_numbers_are_never_rounded_to_bfloat16():
    torch.manual_seed(0)
    x = torch.randn(64, 64)
    before = torch.backends.mkldnn.matmul.fp32_precision
    with products_of(torch.bfloat16):
        pass
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    with products_of(torch.float32):
        gram = _gram(x)
    torch.testing.assert_close(gram.double(), x.double().T @ x.double(), rtol=1e-5, atol=1e-4)
