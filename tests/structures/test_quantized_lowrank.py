"""Laws of a rounded weight with factors beside it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from linalg_cases import METRICS, rng

from eckart.linalg import Problem, quantize, relative_error
from eckart.structures.quantized_lowrank import alternate

OUT, IN = 48, 40


def outlying() -> torch.Tensor:
    """A weight with a few large directions, which make the steps of all entries coarse."""
    draw = rng("residual")
    big = draw.normal(size=(OUT, 2)) @ draw.normal(size=(2, IN))
    return torch.from_numpy(draw.normal(size=(OUT, IN)) * 0.2 + big)


def split(problem: Problem, rank: int) -> tuple[Any, torch.Tensor, torch.Tensor, list[float]]:
    """The rounded weight, the factors, and the errors of the rounds."""
    tensors, errors = alternate(problem, rank)
    return tensors["Q.weight"], tensors["U.weight"], tensors["V.weight"], errors


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("metric", ["identity", "full", "two-sided full, shrunk"])
def test_factors_never_harm_and_no_round_raises_the_error(metric, bits):
    W, sides = outlying(), METRICS[metric](OUT, IN)
    alone = relative_error(W, quantize(W, bits, torch.float32, sides[1]).values(), *sides)
    if metric == "full":
        assert alone < 0.9 * relative_error(W, quantize(W, bits, torch.float32).values(), *sides)
    last = alone
    for rank in (1, 4, 12):
        Q, U, V, errors = split(Problem(W, *sides, torch.float32, bits), rank)
        assert (U.shape, V.shape) == ((OUT, rank), (rank, IN))
        assert errors[0] == pytest.approx(alone)
        assert all(after <= before for before, after in pairwise(errors))
        assert errors[-1] == pytest.approx(relative_error(W, Q.values() + U @ V, *sides), rel=1e-6)
        # More rank is never worse than less here, and some is better than none.
        assert errors[-1] < last
        last = errors[-1]


def test_more_than_one_round_pays():
    W, sides = outlying(), METRICS["identity"](OUT, IN)
    *_, errors = split(Problem(W, *sides, torch.float32, 4), 4)
    # `W − U V` has no large directions left to be coarse for.
    assert errors[-1] < 0.95 * errors[1]


def test_at_rank_0_it_is_rounding():
    W, sides = outlying(), METRICS["full"](OUT, IN)
    Q, U, V, errors = split(Problem(W, *sides, torch.bfloat16, 4), 0)
    plain = quantize(W, 4, torch.bfloat16, sides[1])
    assert torch.equal(Q.numbers, plain.numbers)
    assert torch.equal(Q.scales, plain.scales)
    assert not (U @ V).any()
    assert len(errors) == 1
    with pytest.raises(ValueError, match="rank 41 is not between 0 and 40"):
        split(Problem(W, *sides, torch.float32, 4), 41)
