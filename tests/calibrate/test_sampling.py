"""A few activations themselves: real tokens alone, evenly over all batches, of every kind of model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import BERT, LLAMA, T5, Architecture
from watching import alone, cut_for, targets_of

from eckart.calibrate import INPUT_KINDS, sample, watch
from eckart.model.text import batches


@pytest.mark.parametrize("architecture", [LLAMA, BERT, T5], ids=str)
def test_all_rows_add_up_to_the_moment(architecture: Architecture, tokenizer: Any, data: str) -> None:
    model = architecture.build()
    cut = batches(model, tokenizer, cut_for(model, tokenizer, data), 128)
    assert len(cut) > 1
    seen = watch(model, targets_of(model), cut, INPUT_KINDS)
    rows = sample(model, list(seen.moments), cut, 10**6)
    assert set(rows) == set(seen.moments)
    for space, moment in seen.moments.items():
        assert len(rows[space]) == moment.tokens
        assert torch.allclose(
            rows[space].double().T @ rows[space].double(), moment.second, rtol=1e-4, atol=1e-4
        )


def test_few_rows_are_spread_over_the_batches(tokenizer: Any, data: str) -> None:
    model = LLAMA.build()
    space = targets_of(model)[0]
    single = alone(model, tokenizer, cut_for(model, tokenizer, data))
    everything = [sample(model, [space], [batch], 10**6)[space] for batch in single]
    few = sample(model, [space], single, len(single))[space]
    assert len(few) == len(single)
    assert torch.equal(few, torch.stack([rows[0] for rows in everything]))
    fewer = sample(model, [space], single, 5)[space]
    assert torch.equal(fewer, few[torch.arange(5) * len(single) // 5])
    training = model.train()
    assert torch.equal(sample(training, [space], single, 5)[space], fewer)
    assert training.training
