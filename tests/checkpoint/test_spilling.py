"""A tensor that waits gives up its memory, and comes back as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from eckart.checkpoint import Spill
from eckart.checkpoint.spilling import LEAST_BYTES

SIZE = LEAST_BYTES // 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_waits_on_disk_comes_back_to_everybody_who_holds_it(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.randn(4, SIZE).to(dtype)
    expected, other = tensor.clone(), tensor[1:3]
    with Spill(tmp_path, 0) as spill:
        spill.away(tensor)
        assert tensor.untyped_storage().nbytes() == 0
        assert spill.spilled == expected.numel() * expected.element_size()
        spill.away(tensor)
        spill.back(tensor)
        assert torch.equal(tensor, expected)
        assert torch.equal(other, expected[1:3])
        spill.back(tensor)
        assert torch.equal(tensor, expected)
    assert not list(tmp_path.iterdir())


def test_memory_is_used_first_up_to_the_limit(tmp_path: Path) -> None:
    tensors = [torch.randn(SIZE) for _ in range(4)]
    with Spill(tmp_path, 2 * LEAST_BYTES) as spill:
        for tensor in tensors:
            spill.away(tensor)
        assert [tensor.untyped_storage().nbytes() > 0 for tensor in tensors] == [True, True, False, False]
        spill.back(tensors[0])
        more = torch.randn(SIZE)
        spill.away(more)
        assert more.untyped_storage().nbytes() > 0


def test_what_shares_its_memory_or_is_small_or_no_float_stays(tmp_path: Path) -> None:
    whole = torch.randn(4, SIZE)
    stay = [whole[:2], torch.randn(3), torch.arange(SIZE * 2), torch.randn(SIZE, 4).T]
    with Spill(tmp_path, 0) as spill:
        for tensor in stay:
            spill.away(tensor)
        assert all(tensor.untyped_storage().nbytes() for tensor in stay)
        assert spill.spilled == 0


def test_a_leaf_keeps_its_gradient(tmp_path: Path) -> None:
    leaf = torch.randn(SIZE).requires_grad_()
    expected = leaf.detach().clone()
    (2 * leaf).sum().backward()
    with Spill(tmp_path, 0) as spill:
        spill.away(leaf)
        spill.back(leaf)
    assert torch.equal(leaf.detach(), expected)
    assert leaf.grad is not None
    assert torch.equal(leaf.grad, torch.full_like(leaf, 2))
