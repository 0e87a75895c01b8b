"""Blocks that are run again for the way back: nothing that is learned changes, and little waits meanwhile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, LLAMA
from torch.autograd.graph import saved_tensors_hooks
from watching import ALL, cut_for, targets_of

from eckart.calibrate import modes, watch
from eckart.calibrate.losses import softened
from eckart.model.targets import stacks_of
from eckart.model.text import batches


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_sum_is_the_same_to_the_last_bit(architecture, tokenizer, data, monkeypatch):
    model = architecture.build()
    names, read = targets_of(model), batches(model, tokenizer, cut_for(model, tokenizer, data)[:4])
    kept = watch(model, names, read, ALL, loss=softened())
    monkeypatch.setattr(modes, "WAITING_BYTES", 0)
    again = watch(model, names, read, ALL, loss=softened(), blocks=stacks_of(model, names))
    assert again.tokens == kept.tokens
    for one, other in ((kept.moments, again.moments), (kept.gradients, again.gradients)):
        assert one.keys() == other.keys()
        for name, moment in one.items():
            assert moment.tokens == other[name].tokens, name
            for kind in ("second", "absolute", "fisher"):
                mine, its = getattr(moment, kind), getattr(other[name], kind)
                assert (mine is None and its is None) or torch.equal(mine, its), (name, kind)
    assert all("forward" not in vars(block) for block in stacks_of(model, names))


def waiting(model: Any, batch: Any) -> int:
    """Bytes of different tensors that a forward pass keeps for the way back, without weights."""
    own = {each.data_ptr() for each in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).logits.float().square().sum()
    loss.backward()
    return sum(kept.values())


def test_little_of_a_block_waits_for_the_way_back(tokenizer, data, monkeypatch):
    model = LLAMA.build()
    (batch,) = batches(model, tokenizer, cut_for(model, tokenizer, data)[:1])
    blocks = stacks_of(model, targets_of(model))
    before = waiting(model, batch)
    gradients = [each.grad.clone() for each in model.parameters()]
    model.zero_grad()
    with modes.recomputing(model, blocks, 1):
        assert waiting(model, batch) == before  # too little to be worth it
    model.zero_grad()
    monkeypatch.setattr(modes, "WAITING_BYTES", 0)
    with modes.recomputing(model, blocks, 1):
        assert waiting(model, batch) < before / 3
    for one, other in zip(gradients, (each.grad for each in model.parameters()), strict=True):
        assert torch.equal(one, other)


def test_a_block_that_has_a_forward_of_its_own_has_it_again(monkeypatch):
    model = LLAMA.build()
    (block, *_) = blocks = stacks_of(model, targets_of(model))
    own = block.forward = block.forward
    monkeypatch.setattr(modes, "WAITING_BYTES", 0)
    with modes.recomputing(model, blocks, 1):
        assert block.forward is not own
    assert block.forward is own
