"""The layer of whole numbers: what is in it, what it computes, and what a config may say of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from eckart.linalg import quantize
from eckart.model.portable import EckartConfig, quantize_modules
from eckart.model.quantizing import put_quantized
from eckart.structures import QuantizedLinear
from eckart.structures.quantized import packed, shapes_of, unpacked


class Model(nn.Module):
    base_model_prefix = ""

    def __init__(self, in_features: int, out_features: int, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(in_features, out_features, dtype=dtype)


def quantized(bits: int, in_features: int, out_features: int = 12, dtype: torch.dtype = torch.float32):
    model = Model(in_features, out_features, dtype)
    bias = model.layer.bias.detach().clone()
    found = quantize(model.layer.weight.detach(), bits, dtype)
    put_quantized(model, "layer", found)
    return model.layer, found, bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("bits", "in_features"),
    [
        (8, 33),
        (8, 64),
        (8, 16),
        (4, 32),
        (4, 33),
        (4, 65),
        (4, 3),
        (3, 32),
        (3, 33),
        (3, 3),
        (2, 64),
        (2, 33),
    ],
)
def test_it_computes_with_the_numbers_that_were_put_in(bits, in_features, dtype):
    layer, found, bias = quantized(bits, in_features, dtype=dtype)
    assert torch.equal(layer.numbers(), found.numbers)
    assert layer.scaled().dtype == dtype
    assert (layer.scaled().double() - found.values()).abs().max() <= torch.finfo(dtype).eps
    for rows in ((2, 5), (1, 1), (40,)):  # some by a kernel of their own
        x = torch.randn(*rows, in_features, dtype=dtype)
        exact = functional.linear(x.double(), found.values(), bias.double())
        with torch.no_grad():
            largest = (layer(x).double() - exact).abs().max() / exact.abs().max()
        assert largest <= 4 * torch.finfo(dtype).eps
    state = layer.state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "codes": shapes_of(bits, 12, in_features)[0],
        "scales": shapes_of(bits, 12, in_features)[1],
        "bias": (12,),
    }
    assert state["codes"].dtype == (torch.int8 if bits == 8 else torch.uint8)
    assert layer.weight.is_meta
    assert (layer.weight.shape, layer.weight.dtype) == ((12, in_features), dtype)


def test_numbers_lie_one_behind_the_other_in_bytes_the_first_lowest():
    numbers = torch.tensor([[-8, 7, 0], [1, -1, -8]], dtype=torch.int8)
    assert packed(numbers, 4).tolist() == [[0 + 15 * 16, 8 + 8 * 16], [9 + 7 * 16, 0 + 8 * 16]]
    assert packed(torch.tensor([[-2, -1, 0, 1, 1]], dtype=torch.int8), 2).tolist() == [
        [0 + 1 * 4 + 2 * 16 + 3 * 64, 3 + 2 * 4 + 2 * 16 + 2 * 64]
    ]
    eight = torch.tensor([[-4, -3, -2, -1, 0, 1, 2, 3]], dtype=torch.int8)
    word = sum(value << 3 * place for place, value in enumerate(range(8)))
    assert packed(eight, 3).tolist() == [list(word.to_bytes(3, "little"))]


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("columns", [1, 7, 8, 32, 33])
def test_what_was_packed_comes_back(bits, columns):
    numbers = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (5, columns), dtype=torch.int8)
    codes = packed(numbers, bits)
    assert codes.shape == shapes_of(bits, 5, columns)[0]
    assert torch.equal(unpacked(codes, bits, columns), numbers)


def test_it_lets_gradients_through_and_has_none_of_its_own():
    layer, _, _ = quantized(8, 16)
    x = torch.randn(3, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert not any(parameter.requires_grad for parameter in layer.parameters())


def test_it_is_compiled_in_one_piece():
    for bits in (8, 4, 3, 2):
        layer, _, _ = quantized(bits, 33)
        x = torch.randn(2, 33)
        compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
        assert torch.allclose(compiled(x), layer(x), atol=1e-6)


def test_a_config_names_the_layers_and_says_no_more():
    model = Model(33, 12, torch.bfloat16)
    quantize_modules(model, {"layer": "int4", "head": "int8"})
    assert isinstance(model.layer, QuantizedLinear)
    assert model.layer.scales.dtype == torch.bfloat16
    inner = {"quant_method": "torchao", "modules": {"layer": "int4"}}
    assert EckartConfig({}, inner=inner).to_dict()["inner"] == inner
    assert EckartConfig({}, inner=inner).format_version == 2
    assert EckartConfig({"layer": 3}).format_version == 1
    for wrong in ({"quant_method": "gptq", "modules": {}}, {"quant_method": "torchao"}, "int8"):
        with pytest.raises(ValueError, match="inner"):
            EckartConfig({}, inner=wrong)
    with pytest.raises(ValueError, match=r"layer.*int5"):
        EckartConfig({}, inner={"quant_method": "torchao", "modules": {"layer": "int5"}})
