"""The modules of the structures: what they compute, hold, and let others do with them."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from fitting import SPECTRAL
from torch import nn

from eckart import LowRankLinear, PivotedLinear, structures
from eckart.structures import Shape

SHAPES = [(12, 20), (20, 12), (16, 16), (1, 9), (9, 1)]
EVERY = pytest.mark.parametrize("structure", structures.replacements())


def linear(out_features, in_features, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(in_features, out_features, bias=bias, dtype=dtype)


def made(structure, in_features, out_features, size, dtype=torch.float32):
    """A layer with random values and its outputs in some order."""
    shape = Shape(out_features, in_features, bias=True)
    form = structures.find(structure)
    layer = form.layer(shape, min(size, form.largest(shape)), dtype=dtype)
    assert {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()} == {
        name: part.shape for name, part in form.parts(shape, layer.size).items()
    }
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_from_linear_at_full_rank_is_the_layer(shape, bias):
    layer = linear(*shape, bias=bias)
    x = torch.randn(2, 3, shape[1])
    low = LowRankLinear.from_linear(layer, min(shape))
    torch.testing.assert_close(low(x), layer(x))
    assert (low.bias is not None) is bias


@pytest.mark.parametrize("rank", [1, 5, 11])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
def test_from_linear_leaves_the_spectral_tail_as_eckart_and_young_say(shape, rank):
    layer = linear(*shape)
    low = LowRankLinear.from_linear(layer, rank)
    weight = layer.weight.detach().double()
    product = low.U.weight.double() @ low.V.weight.double()
    tail = torch.linalg.svdvals(weight)[rank:].square().sum().sqrt()
    torch.testing.assert_close((weight - product).norm(), tail, rtol=1e-5, atol=1e-6)
    assert sum(parameter.numel() for parameter in low.parameters()) == rank * sum(shape) + shape[0]


def test_from_linear_keeps_dtype_and_leaves_the_layer_alone():
    layer = linear(12, 20, dtype=torch.bfloat16)
    before = copy.deepcopy(layer.state_dict())
    low = LowRankLinear.from_linear(layer, 4)
    assert {parameter.dtype for parameter in low.parameters()} == {torch.bfloat16}
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    assert low(torch.randn(20, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_from_linear_fixes_signs_and_splits_singular_values_in_half():
    low = LowRankLinear.from_linear(linear(12, 20), 5)
    U, V = low.U.weight.detach(), low.V.weight.detach()
    assert (U.gather(0, U.abs().argmax(0, keepdim=True)) > 0).all()
    torch.testing.assert_close(U.norm(dim=0), V.norm(dim=1))


@pytest.mark.parametrize("rank", [0, -1, 13])
def test_from_linear_refuses_a_rank_out_of_range(rank):
    with pytest.raises(ValueError, match="between 1 and 12"):
        LowRankLinear.from_linear(linear(12, 20), rank)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_from_linear_refuses_weights_that_are_not_finite(bad):
    layer = linear(12, 20)
    layer.weight.data[3, 4] = bad
    with pytest.raises(ValueError, match="not finite"):
        LowRankLinear.from_linear(layer, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [(1,), (3, 5), (40,), (2, 3, 11)])
def test_pivoted_outputs_are_in_their_order_whatever_the_way(rows, dtype):
    layer = PivotedLinear(20, 16, 5, dtype=dtype)
    layer.order.copy_(torch.randperm(16, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(*rows, 20, dtype=dtype, requires_grad=True)
    pivots = layer.V(x)
    expected = torch.cat([pivots, layer.U(pivots)], -1)[..., layer.order.long()]
    found = layer(x)
    assert torch.equal(found, expected)
    ours, theirs = (torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("structure", SPECTRAL)
def test_writing_a_token_turns_u_round_in_memory_and_nothing_else(structure, tmp_path):
    layer = made(structure, 20, 16, 5).eval()
    expected = layer(torch.ones(1, 20))
    assert layer.U.weight.is_contiguous(), "a gradient was wanted"
    with torch.no_grad():
        layer(torch.ones(2, 20))
        assert layer.U.weight.is_contiguous(), "two rows"
        torch.testing.assert_close(layer(torch.ones(1, 20)), expected)
        assert layer.U.weight.stride() == (1, len(layer.U.weight))
        torch.testing.assert_close(layer(torch.ones(1, 20)), expected)
    assert layer.train().U.weight.is_contiguous(), "FSDP takes no other"
    with torch.no_grad():
        half = layer.bfloat16().eval()
        half(torch.ones(1, 20, dtype=torch.bfloat16))
    assert half.U.weight.is_contiguous(), "bfloat16 is slower so"


@EVERY
def test_modules_compile_in_one_graph(structure):
    layer = made(structure, 20, 16, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.no_grad():
        for rows in (1, 3, 40):
            x = torch.randn(rows, 20)
            torch.testing.assert_close(compiled(x), layer(x))


@EVERY
def test_the_dense_weight_is_a_shape_without_values(structure):
    layer = made(structure, 20, 12, 4, torch.bfloat16)
    assert layer.weight.shape == (12, 20)
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight.is_meta
    assert "weight" not in layer.state_dict()
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer.weight.sum().item()


@EVERY
def test_modules_can_be_copied_pickled_and_cast(structure):
    layer = made(structure, 20, 12, 4)
    x = torch.randn(3, 20)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    for name, part in structures.parts_of(half).items():
        held = half.state_dict()[name]
        assert held.dtype == (torch.int32 if part.role == "index" else torch.bfloat16)


def test_a_pivoted_module_puts_its_outputs_in_order():
    layer = PivotedLinear(3, 4, 2, bias=False)
    with torch.no_grad():
        layer.V.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        layer.U.weight.copy_(torch.tensor([[1.0, 1], [2, 0]]))
        layer.order.copy_(torch.tensor([3, 0, 2, 1]))
    # [V x; U V x] is (1, 10, 11, 2) for x = (1, 10, 100).
    assert layer(torch.tensor([1.0, 10, 100])).tolist() == [2, 1, 11, 10]
