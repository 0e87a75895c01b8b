"""Rounding at random keeps on average what rounding to the nearest would lose."""

from __future__ import annotations

import pytest
import torch

from eckart.linalg import rounded_at_random

HALVES = [torch.bfloat16, torch.float16]


def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_result_is_one_of_the_two_neighbours_and_the_mean_stays(dtype):
    torch.manual_seed(0)
    start = torch.randn(50).to(dtype)
    above = torch.nextafter(start, torch.full_like(start, torch.inf))
    for share in (0.1, 0.5, 0.8):
        exact = (start.float() + share * (above.float() - start.float()))[:, None].expand(-1, 4000)
        found = rounded_at_random(exact, dtype, chance())
        assert found.dtype == dtype
        assert bool(((found == start[:, None]) | (found == above[:, None])).all())
        assert float((found == above[:, None]).float().mean()) == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_numbers_of_the_dtype_stay(dtype):
    torch.manual_seed(0)
    exact = torch.cat([torch.randn(100), torch.zeros(3)]).to(dtype)
    assert torch.equal(rounded_at_random(exact.float(), dtype, chance()), exact)


def test_float32_is_not_rounded():
    exact = torch.randn(100)
    assert torch.equal(rounded_at_random(exact, torch.float32, chance()), exact)
