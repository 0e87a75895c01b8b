"""Laws of rounding: what it may lose, and that fitting one factor to the other never loses more."""

from __future__ import annotations

import pytest
import torch
from fitting import SMALLER
from linalg_cases import rng

from eckart import structures
from eckart.linalg import (
    Problem,
    Quantized,
    Side,
    quantize,
    quantize_weight,
    relative_error,
)
from eckart.structures import Shape


def normal(*shape: int) -> torch.Tensor:
    return torch.from_numpy(rng("quantize", shape).normal(size=shape))


def side(size: int) -> Side:
    """A Gram of inputs that are not alike."""
    samples = normal(3 * size, size) * torch.logspace(0, -2, size, dtype=torch.float64)
    return Side(samples.T @ samples)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(5, 7), (6, 32), (3, 33), (4, 100), (1, 1)])
def test_eight_bits_are_within_half_a_step(shape, dtype):
    matrix = normal(*shape)
    rounded = quantize(matrix, 8, dtype)
    assert rounded.numbers.shape == shape
    assert rounded.numbers.dtype == torch.int8
    assert rounded.scales.shape == (shape[0], 1)
    assert rounded.scales.dtype == dtype
    steps = rounded.scales.double()
    # A scale that was rounded down clips the largest entry, by as much as 127 times that.
    clipped = 127 * torch.finfo(dtype).eps * steps
    assert ((rounded.values() - matrix).abs() <= 0.5 * steps + clipped + 1e-6).all()


@pytest.mark.parametrize("columns", [7, 32, 33, 100])
@pytest.mark.parametrize(("bits", "most", "loses"), [(4, 7, 0.13), (3, 3, 0.25), (2, 1, 0.55)])
def test_fewer_bits_have_a_scale_for_32_columns(bits, most, loses, columns):
    matrix = normal(6, columns)
    rounded = quantize(matrix, bits, torch.float32)
    assert rounded.scales.shape == (6, -(-columns // 32))
    assert rounded.numbers.min() >= -most - 1
    assert rounded.numbers.max() <= most
    assert relative(matrix, rounded) < loses
    # The largest entry as the largest number is one of the scales that are tried: none is worse than that.
    last = matrix[:, 32 * (rounded.scales.shape[1] - 1) :]
    plain = (last / (last.abs().amax(1, keepdim=True) / most)).round().clamp(-most - 1, most)
    plain = plain * (last.abs().amax(1, keepdim=True) / most)
    own = rounded.values()[:, -last.shape[1] :]
    assert (((own - last) ** 2).sum(1) <= ((plain - last) ** 2).sum(1) * (1 + 1e-5) + 1e-9).all()


def relative(matrix: torch.Tensor, rounded: Quantized) -> float:
    return float((rounded.values() - matrix).norm() / matrix.norm())


def test_it_is_what_torchao_makes_of_the_same_scales():
    from torchao.quantization.quant_primitives import dequantize_affine, quantize_affine

    for bits, width in ((8, 64), (4, 32), (3, 32), (2, 32)):
        matrix = normal(5, 64)
        rounded = quantize(matrix, bits, torch.float32)
        zeros, most = torch.zeros_like(rounded.scales, dtype=torch.int8), 2 ** (bits - 1) - 1
        numbers = quantize_affine(
            matrix.float(), (1, width), rounded.scales, zeros, torch.int8, -most - 1, most
        )
        assert torch.equal(numbers, rounded.numbers)
        theirs = dequantize_affine(rounded.numbers, (1, width), rounded.scales, zeros, torch.int8)
        assert torch.equal(theirs.double(), rounded.values().float().double())


def test_a_zero_matrix_stays_zero_and_one_that_is_not_finite_is_refused():
    for bits in (8, 4, 3, 2):
        assert not quantize(torch.zeros(3, 40), bits, torch.float16).values().any()
    with pytest.raises(ValueError, match="not finite"):
        quantize(torch.tensor([[1.0, torch.nan]]), 8, torch.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("structure", SMALLER)
@pytest.mark.parametrize("metric", ["identity", "input", "both"])
def test_fitted_factors_lose_no_more_than_each_rounded_by_itself(metric, structure, bits):
    out, inner = 48, 40
    right = Side() if metric == "identity" else side(inner)
    left = side(out).shrunk(0.01) if metric == "both" else Side()
    W = normal(out, inner)
    problem = Problem(W, left, right, torch.float32, bits)
    form = structures.find(structure)
    size = min(20, form.largest(Shape(out, inner)))
    (fitted,) = form.fit([Problem(W, left, right)], size)
    tensors = structures.values_of(fitted)
    whole, _ = form.dense(tensors, size)
    rounded, error = form.round(problem, size, tensors)
    made, _ = form.dense(tensors | {name: each.values() for name, each in rounded.items()}, size)
    assert error == pytest.approx(relative_error(whole, made, left, right), rel=1e-6)
    alone = {name: quantize(tensors[name], bits, torch.float32).values() for name in rounded}
    plain = relative_error(whole, form.dense(tensors | alone, size)[0], left, right)
    # Never more by construction; of factors a good part of it comes back.
    assert error <= plain * (1 + 1e-9)
    if form.spectral:
        assert error < 0.95 * plain


def test_a_dense_weight_and_its_error():
    W, right = normal(8, 40), side(40)
    rounded, error = quantize_weight(W, 4, torch.float32, Side(), right)
    assert error == pytest.approx(relative_error(W, rounded.values(), Side(), right))
