"""Laws of rounding in a metric: GPTQ's numbers, and nothing behind them that raises the error."""

from __future__ import annotations

import sys

import pytest
import torch
from linalg_cases import rng

from eckart.linalg import Side, quantize, relative_error
from eckart.linalg.nearest_plane import DAMPING, NearestPlane

OUT, IN = 12, 70


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng("nearest plane", shape).normal(size=shape))


def side() -> Side:
    """Inputs that go together, of different sizes."""
    samples = normal(4 * IN, IN) @ (torch.eye(IN, dtype=torch.float64) + 0.3 * normal(IN, IN))
    samples *= torch.logspace(0, -1, IN, dtype=torch.float64)
    return Side(samples.T @ samples)


def gptq(W: torch.Tensor, gram: torch.Tensor, scales: torch.Tensor, bits: int, width: int) -> torch.Tensor:
    """As the paper has it: columns in order, the inverse's Cholesky factor, what is left moved on at once."""
    H = gram + DAMPING * torch.eye(len(gram), dtype=torch.float64)
    inverse = torch.linalg.cholesky(torch.linalg.inv(H), upper=True)
    W, most = W.clone(), 2 ** (bits - 1) - 1
    numbers = torch.empty_like(W)
    for column in range(W.shape[1]):
        step = scales[:, column // width]
        numbers[:, column] = (W[:, column] / step).round().clamp(-most - 1, most)
        error = (W[:, column] - numbers[:, column] * step) / inverse[column, column]
        W[:, column:] -= torch.outer(error, inverse[column, column:])
    return numbers


@pytest.mark.parametrize(("bits", "width"), [(8, IN), (4, 14)])
def test_its_numbers_are_those_of_gptq_from_the_other_end(bits: int, width: int) -> None:
    W, right = normal(OUT, IN), side()
    scales = W.abs().unflatten(1, (-1, width)).amax(2) / (2 ** (bits - 1) - 1)
    assert right.gram is not None
    theirs = gptq(W.flip(1), right.gram.flip(0, 1), scales.flip(1), bits, width)
    assert torch.equal(NearestPlane(right, bits, width).numbers(W, scales), theirs.flip(1))


@pytest.mark.parametrize(("bits", "width"), [(8, IN), (4, 32)])
def test_no_sweep_and_no_scale_raises_the_error(bits: int, width: int) -> None:
    W, plane = normal(OUT, IN), NearestPlane(side(), bits, width)
    nearest = quantize(W, bits, torch.float32)
    scales = nearest.scales.double()
    errors = [plane.energy(W, scales, nearest.numbers.double())]
    numbers = plane.numbers(W, scales)
    errors.append(plane.energy(W, scales, numbers))
    for _ in range(3):
        numbers = plane.swept(W, scales, numbers)
        errors.append(plane.energy(W, scales, numbers))
        scales = plane.scales(W, scales, numbers)
        errors.append(plane.energy(W, scales, numbers))
    assert errors == sorted(errors, reverse=True)
    assert errors[1] < 0.9 * errors[0]
    assert errors[-1] < 0.85 * errors[1]
    assert numbers.min() >= -(2 ** (bits - 1))
    assert numbers.max() <= 2 ** (bits - 1) - 1


def test_scales_are_where_the_error_has_no_slope() -> None:
    W, plane = normal(OUT, IN), NearestPlane(side(), 4, 32)
    numbers = quantize(W, 4, torch.float32).numbers.double()
    scales = plane.scales(W, torch.ones(OUT, 3, dtype=torch.float64), numbers).requires_grad_()
    wide = scales.repeat_interleave(32, dim=1)[:, :IN]
    error = W - numbers * wide
    (error @ plane.gram * error).sum().backward()
    assert scales.grad is not None
    assert scales.grad.abs().max() < 1e-8


def test_a_group_of_zeros_keeps_its_scale() -> None:
    W, plane = normal(OUT, IN), NearestPlane(side(), 4, 32)
    numbers = quantize(W, 4, torch.float32).numbers.double()
    numbers[0, :32] = 0
    assert plane.scales(W, torch.full((OUT, 3), 0.5, dtype=torch.float64), numbers)[0, 0] == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [8, 4])
def test_in_a_metric_rounding_loses_less(bits: int, dtype: torch.dtype) -> None:
    W, right = normal(OUT, IN), side()
    nearest, found = quantize(W, bits, dtype), quantize(W, bits, dtype, right)
    assert (found.numbers.shape, found.scales.shape) == (nearest.numbers.shape, nearest.scales.shape)
    assert (found.numbers.dtype, found.scales.dtype) == (torch.int8, dtype)
    losses = [relative_error(W, each.values(), Side(), right) for each in (nearest, found)]
    assert losses[1] < 0.75 * losses[0]


def test_the_metric_s_scale_changes_nothing_and_one_without_pairs_is_no_help() -> None:
    W, right = normal(OUT, IN), side()
    assert right.gram is not None
    same = quantize(W, 4, torch.float32, Side(right.gram * 1e-9))
    assert torch.equal(quantize(W, 4, torch.float32, right).numbers, same.numbers)
    nearest = quantize(W, 4, torch.float32)
    for plain in (Side(), Side(right.gram.diagonal().clone())):
        assert torch.equal(quantize(W, 4, torch.float32, plain).numbers, nearest.numbers)


def test_rows_may_be_rounded_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    W, right = normal(OUT, IN), side()
    whole = quantize(W, 4, torch.float32, right)
    monkeypatch.setattr(sys.modules["eckart.linalg.quantize"], "ENTRIES", 1)
    rows = [quantize(row[None], 4, torch.float32, right) for row in W]
    parts = quantize(W, 4, torch.float32, right)
    assert torch.equal(parts.numbers, torch.cat([each.numbers for each in rows]))
    assert torch.equal(parts.scales, torch.cat([each.scales for each in rows]))
    losses = [float((each.values() - W).norm()) for each in (parts, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
