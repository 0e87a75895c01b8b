"""Which rows are real, which window they are in, and sums that are symmetric to the bit."""

from __future__ import annotations

import torch
from torch import nn

from eckart.calibrate import losses
from eckart.calibrate.rows import masks_of, real_tokens, windows_of
from eckart.calibrate.sums import OutputSum, mirror
from eckart.types import Moment

BATCH = {
    "input_ids": torch.arange(6).reshape(2, 3),
    "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
    "decoder_input_ids": torch.arange(4).reshape(2, 2),
}
READ = torch.arange(12.0).reshape(2, 3, 2)


def test_each_mask_is_found_by_its_shape_and_what_has_none_is_all_real():
    masks = masks_of(BATCH)
    assert [mask.tolist() for mask in masks] == [[[True] * 3, [True, False, False]], [[True] * 2] * 2]
    real = READ.reshape(-1, 2)[:4]
    assert torch.equal(real_tokens(READ, masks, "this"), real)
    assert torch.equal(real_tokens(READ.reshape(6, 2), masks, "this"), real)
    assert len(real_tokens(READ[:, :2], masks, "this")) == 4


def test_padding_is_in_no_window():
    for shape in ((2, 3, 2), (6, 2)):
        found = windows_of(READ.reshape(shape), masks_of(BATCH))
        assert [len(rows) for rows in found] == [3, 1]
        assert torch.equal(torch.cat(found), READ.reshape(-1, 2)[:4])
    assert windows_of(READ.reshape(3, 4), masks_of(BATCH)) is None


def test_half_of_a_product_says_it_all():
    square = torch.randn(5, 5, dtype=torch.float64)
    moment = Moment(tokens=1, second=square.clone())
    mirror(moment)
    assert torch.equal(moment.second.triu(), square.triu())
    assert torch.equal(moment.second, moment.second.T)
    mirror(Moment(tokens=0))


def test_inputs_are_let_go_as_soon_as_their_gradients_came():
    module = nn.Linear(2, 2)
    watched = OutputSum("this", frozenset({"fisher"}))
    watched.masks = masks_of(BATCH)
    module.register_forward_hook(watched, with_kwargs=True)
    for batch in (1, 2):
        module(READ).sum().backward()
        assert not watched.arrived
        assert watched.moment.windows == 2 * batch
        watched.finish_batch()


def test_a_draw_at_either_end_of_the_distribution_is_of_something_that_has_some():
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]]).repeat(3, 1)
    drawn = losses._draw(logits, torch.tensor([0.0, 0.5, 1.0]))
    assert drawn.tolist() == [1, 2, 2]
