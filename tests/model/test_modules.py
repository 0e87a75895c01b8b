"""The modules themselves, and putting them into a model before its weights are read."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import transformers
from architectures import BERT, LLAMA, T5, Architecture
from torch import nn

import eckart
from eckart import LowRankLinear, PivotedLinear, linalg
from eckart.model import portable, replacing
from eckart.model.targets import weight_of

SHAPES = [(12, 20), (20, 12), (16, 16), (1, 9), (9, 1)]


def linear(out_features, in_features, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(in_features, out_features, bias=bias, dtype=dtype)


# LowRankLinear.from_linear


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


# Both modules


def factors_of(layer, structure, rank):
    weight = weight_of(layer).clone()
    side = linalg.Side()
    return linalg.factorize(structure, *linalg.decompose(weight, side, side).factors(weight, rank))


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


@pytest.mark.parametrize("kind", [LowRankLinear, PivotedLinear])
def test_writing_a_token_turns_u_round_in_memory_and_nothing_else(kind, tmp_path):
    layer = kind(20, 16, 5).eval()
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


@pytest.mark.parametrize("kind", [LowRankLinear, PivotedLinear])
def test_modules_compile_in_one_graph(kind):
    layer = kind(20, 16, 5)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    with torch.no_grad():
        for rows in (1, 3, 40):
            x = torch.randn(rows, 20)
            torch.testing.assert_close(compiled(x), layer(x))


class Holder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("structure", ["lowrank", "pivoted"])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
def test_a_module_in_place_computes_its_factors_and_the_bias(shape, structure, bias):
    layer = linear(*shape, bias=bias)
    holder = Holder(layer)
    saved = replacing.replace(holder, "layer", factors_of(layer, structure, 5))
    x = torch.randn(2, 3, shape[1])
    expected = x.double() @ linalg.reconstruct(saved).T + (layer.bias.double() if bias else 0)
    torch.testing.assert_close(holder.layer(x).double(), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(holder.layer, portable.STRUCTURES[structure])
    assert (holder.layer.in_features, holder.layer.out_features, holder.layer.rank) == (*shape[::-1], 5)


@pytest.mark.parametrize("structure", ["lowrank", "pivoted"])
def test_conv1d_is_replaced_by_what_it_computes(structure):
    torch.manual_seed(0)
    layer = transformers.pytorch_utils.Conv1D(20, 12)
    nn.init.normal_(layer.bias)
    holder = Holder(layer)
    x = torch.randn(3, 12)
    replacing.replace(holder, "layer", factors_of(layer, structure, 11))
    exact = LowRankLinear(12, 20, 11)
    with torch.no_grad():
        left, values, right = torch.linalg.svd(layer.weight.T, full_matrices=False)
        exact.U.weight.copy_(left[:, :11] * values[:11])
        exact.V.weight.copy_(right[:11])
        exact.U.bias.copy_(layer.bias)
    torch.testing.assert_close(holder.layer(x), exact(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("structure", ["lowrank", "pivoted"])
def test_a_module_keeps_dtype_mode_and_whether_it_trains(structure):
    layer = linear(12, 20, dtype=torch.bfloat16).eval().requires_grad_(False)
    holder = Holder(layer)
    replacing.replace(holder, "layer", factors_of(layer, structure, 4))
    assert {parameter.dtype for parameter in holder.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in holder.layer.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())


@pytest.mark.parametrize("structure", ["lowrank", "pivoted"])
def test_every_parameter_of_a_module_gets_a_gradient(structure):
    layer = linear(12, 20)
    holder = Holder(layer)
    replacing.replace(holder, "layer", factors_of(layer, structure, 4))
    holder.layer(torch.randn(7, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in holder.parameters())


@pytest.mark.parametrize("kind", [LowRankLinear, PivotedLinear])
def test_the_dense_weight_is_a_shape_without_values(kind):
    layer = kind(20, 12, 4, dtype=torch.bfloat16)
    assert layer.weight.shape == (12, 20)
    assert layer.weight.dtype == torch.bfloat16
    assert layer.weight.is_meta
    assert "weight" not in layer.state_dict()
    with pytest.raises((RuntimeError, NotImplementedError)):
        layer.weight.sum().item()


@pytest.mark.parametrize("kind", [LowRankLinear, PivotedLinear])
def test_modules_can_be_copied_pickled_and_cast(kind):
    layer = kind(20, 12, 4)
    x = torch.randn(3, 20)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), layer(x))
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    assert kind is LowRankLinear or half.order.dtype == torch.int32


def test_a_pivoted_module_puts_its_outputs_in_order():
    layer = PivotedLinear(3, 4, 2, bias=False)
    with torch.no_grad():
        layer.V.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
        layer.U.weight.copy_(torch.tensor([[1.0, 1], [2, 0]]))
        layer.order.copy_(torch.tensor([3, 0, 2, 1]))
    # [V x; U V x] is (1, 10, 11, 2) for x = (1, 10, 100).
    assert layer(torch.tensor([1.0, 10, 100])).tolist() == [2, 1, 11, 10]


def test_a_pivoted_bias_is_the_layers_own():
    layer = linear(12, 20)
    factors = factors_of(layer, "pivoted", 5)
    holder = Holder(layer)
    replacing.replace(holder, "layer", factors)
    torch.testing.assert_close(holder.layer(torch.zeros(20)), layer.bias)


def test_factors_of_conv1d_shapes():
    layer = transformers.pytorch_utils.Conv1D(20, 12)
    assert weight_of(layer).shape == (20, 12)
    assert weight_of(linear(20, 12)).shape == (20, 12)


# Swapping before loading


def swapped(model):
    return {
        name: module.rank
        for name, module in model.named_modules()
        if isinstance(module, portable.FactoredLinear)
    }


def test_swapping_puts_in_what_the_config_names():
    model = LLAMA.build()
    q, up = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"
    portable.swap_modules(model, {q: 3, up: {"rank": 4, "structure": "pivoted"}})
    assert swapped(model) == {q: 3, up: 4}
    assert isinstance(model.get_submodule(up), PivotedLinear)
    portable.swap_modules(model, {q: 3, up: {"rank": 4, "structure": "pivoted"}})
    assert swapped(model) == {q: 3, up: 4}


@pytest.mark.parametrize(
    ("saved", "known"),
    [
        ("model.layers.0.mlp.up_proj", "layers.0.mlp.up_proj"),
        ("layers.0.mlp.up_proj", "layers.0.mlp.up_proj"),
    ],
)
def test_a_backbone_knows_its_modules_with_and_without_the_heads_prefix(saved, known):
    model = transformers.LlamaModel(LLAMA.build().config)
    portable.swap_modules(model, {saved: 3})
    assert swapped(model) == {known: 3}


def test_a_head_model_knows_a_backbones_modules():
    model = transformers.BertForSequenceClassification(BERT.build().config)
    portable.swap_modules(model, {"encoder.layer.1.output.dense": 3})
    assert swapped(model) == {"bert.encoder.layer.1.output.dense": 3}


@pytest.mark.parametrize(
    ("kind", "architecture", "absent", "present"),
    [
        ("LlamaModel", LLAMA, "lm_head", "model.layers.0.mlp.up_proj"),
        (
            "T5EncoderModel",
            T5,
            "decoder.block.0.layer.0.SelfAttention.q",
            "encoder.block.0.layer.0.SelfAttention.q",
        ),
        ("BertForMaskedLM", BERT, "pooler.dense", "encoder.layer.0.output.dense"),
    ],
)
def test_parts_that_a_class_does_not_have_are_left_out(kind, architecture: Architecture, absent, present):
    model = getattr(transformers, kind)(architecture.build().config)
    portable.swap_modules(model, {absent: 3, present: 4})
    assert list(swapped(model).values()) == [4]


def test_a_head_alone_that_a_class_does_not_have_is_left_out():
    model = transformers.LlamaModel(LLAMA.build().config)
    portable.swap_modules(model, {"lm_head": 3})
    assert swapped(model) == {}


@pytest.mark.parametrize(
    "modules",
    [
        ["model.layers.0.mlp.up"],
        ["model.layers.0.mlp.up", "model.layers.0.mlp.up_proj"],
        ["language_model.blocks.0.mlp.up_proj", "lm_head"],
    ],
)
def test_modules_that_go_by_another_name_are_refused_rather_than_left_random(modules):
    with pytest.raises(ValueError, match="no such module"):
        portable.swap_modules(LLAMA.build(), dict.fromkeys(modules, 3))


def test_an_unknown_structure_or_a_newer_format_is_refused():
    with pytest.raises(ValueError, match="unknown structure 'rotated'; update eckart"):
        portable.swap_modules(LLAMA.build(), {"lm_head": {"rank": 3, "structure": "rotated"}})
    with pytest.raises(ValueError, match="update eckart"):
        portable.EckartConfig({}, format_version=portable.FORMAT_VERSION + 1)


def test_importing_eckart_registers_the_loader_once():
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AUTO_QUANTIZER_MAPPING

    assert eckart.LowRankLinear is portable.LowRankLinear
    assert AUTO_QUANTIZER_MAPPING["eckart"] is portable.EckartLoader
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["eckart"] is portable.EckartConfig
    portable.register()
    assert AUTO_QUANTIZER_MAPPING["eckart"] is portable.EckartLoader
