"""The modules themselves, and putting them into a model before its weights are read."""

from __future__ import annotations

import pytest
import torch
import transformers
from architectures import BERT, LLAMA, T5, Architecture
from fitting import SMALLER, SPECTRAL, dense, put_fitted
from torch import nn

import eckart
from eckart import LowRankLinear, PivotedLinear, structures
from eckart.model import portable
from eckart.model.targets import weight_of
from eckart.structures import Shape, StructuredLinear


def linear(out_features, in_features, bias=True, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    return nn.Linear(in_features, out_features, bias=bias, dtype=dtype)


class Holder(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("structure", SMALLER)
@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (16, 16)])
def test_a_module_in_place_computes_its_factors_and_the_bias(shape, structure, bias):
    layer = linear(*shape, bias=bias)
    holder = Holder(layer)
    saved = put_fitted(holder, "layer", structure, 5)
    x = torch.randn(2, 3, shape[1])
    weight = dense(structure, saved, holder.layer.size)
    expected = x.double() @ weight.T + (layer.bias.double() if bias else 0)
    torch.testing.assert_close(holder.layer(x).double(), expected, rtol=1e-4, atol=1e-5)
    assert structures.structure_of(holder.layer) is structures.find(structure)
    largest = structures.find(structure).largest(Shape(*shape))
    assert (holder.layer.in_features, holder.layer.out_features) == shape[::-1]
    assert holder.layer.size == min(5, largest)


@pytest.mark.parametrize("structure", SPECTRAL)
def test_conv1d_is_replaced_by_what_it_computes(structure):
    torch.manual_seed(0)
    layer = transformers.pytorch_utils.Conv1D(20, 12)
    nn.init.normal_(layer.bias)
    holder = Holder(layer)
    x = torch.randn(3, 12)
    put_fitted(holder, "layer", structure, 11)
    exact = LowRankLinear(12, 20, 11)
    with torch.no_grad():
        left, values, right = torch.linalg.svd(layer.weight.T, full_matrices=False)
        exact.U.weight.copy_(left[:, :11] * values[:11])
        exact.V.weight.copy_(right[:11])
        exact.U.bias.copy_(layer.bias)
    torch.testing.assert_close(holder.layer(x), exact(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("structure", SMALLER)
def test_a_module_keeps_dtype_mode_and_whether_it_trains(structure):
    layer = linear(12, 20, dtype=torch.bfloat16).eval().requires_grad_(False)
    holder = Holder(layer)
    put_fitted(holder, "layer", structure, 4)
    assert {parameter.dtype for parameter in holder.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in holder.layer.modules())
    assert not any(parameter.requires_grad for parameter in holder.parameters())


@pytest.mark.parametrize("structure", SMALLER)
def test_every_parameter_of_a_module_gets_a_gradient(structure):
    layer = linear(12, 20)
    holder = Holder(layer)
    put_fitted(holder, "layer", structure, 4)
    holder.layer(torch.randn(7, 20)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in holder.parameters())


@pytest.mark.parametrize("structure", SMALLER)
def test_a_bias_is_the_layers_own(structure):
    layer = linear(12, 20)
    holder = Holder(layer)
    put_fitted(holder, "layer", structure, 5)
    torch.testing.assert_close(holder.layer(torch.zeros(20)), layer.bias)


def test_weights_of_conv1d_shapes():
    layer = transformers.pytorch_utils.Conv1D(20, 12)
    assert weight_of(layer).shape == (20, 12)
    assert weight_of(linear(20, 12)).shape == (20, 12)


# Swapping before loading


def swapped(model):
    return {
        name: module.size for name, module in model.named_modules() if isinstance(module, StructuredLinear)
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

    assert eckart.LowRankLinear is structures.LowRankLinear
    assert AUTO_QUANTIZER_MAPPING["eckart"] is portable.EckartLoader
    assert AUTO_QUANTIZATION_CONFIG_MAPPING["eckart"] is portable.EckartConfig
    portable.register()
    assert AUTO_QUANTIZER_MAPPING["eckart"] is portable.EckartLoader
