"""One product for what reads the same input: the same values, fewer products, and nothing else changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, T5, Architecture
from fitting import SPECTRAL
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import eckart
from eckart import UsageError
from eckart.structures import FactoredLinear

PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default)


class Counting(TorchDispatchMode):
    """Counts products of matrices."""

    products = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += function in PRODUCTS
        return function(*args, **(kwargs or {}))


def factored(architecture: Architecture, structure: str) -> Any:
    model = architecture.build()
    return eckart.compress(model, ratio=0.25, method="svd", structure=structure).model.eval()


def run(model: Any) -> tuple[torch.Tensor, int]:
    inputs = {key: value.clone() for key, value in model.dummy_inputs.items()}
    inputs["input_ids"] = inputs["input_ids"] % 96
    with torch.no_grad(), Counting() as counting:
        out = model(**inputs)
    return out[0], counting.products


def shared_of(model: Any) -> list[Any]:
    return [m.shared for m in model.modules() if isinstance(m, FactoredLinear) and m.shared is not None]


@pytest.mark.parametrize("structure", SPECTRAL)
@pytest.mark.parametrize(("architecture", "groups"), [(LLAMA, 2), (BERT, 1), (T5, 2)], ids=str)
def test_fused_is_the_same_in_fewer_products(architecture, groups, structure):
    model = factored(architecture, structure)
    expected, before = run(model)
    names = [name for name, _ in model.named_parameters()]
    assert eckart.fuse(model) is model
    found, after = run(model)
    torch.testing.assert_close(found, expected)
    shared = {id(each): len(each.modules) for each in shared_of(model)}
    assert before - after == sum(size - 1 for size in shared.values())
    assert len(shared) >= groups
    assert [name for name, _ in model.named_parameters()] == names


def test_nothing_is_held_twice():
    model = factored(LLAMA, "lowrank")
    before = sum(p.untyped_storage().nbytes() for p in model.parameters())
    eckart.fuse(model)
    own = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    attention = model.model.layers[0].self_attn
    assert attention.q_proj.shared._weight.untyped_storage().data_ptr() in own
    assert sum(own.values()) == before


def test_a_fused_model_saves_and_loads_as_before(tmp_path: Path):
    model = factored(LLAMA, "pivoted")
    expected, _ = run(model)
    eckart.fuse(model).save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    found, _ = run(again)
    assert torch.equal(found, expected)


def test_what_is_changed_afterwards_counts():
    model = eckart.fuse(factored(LLAMA, "lowrank"))
    plain, _ = run(model)
    module = model.model.layers[0].self_attn.k_proj
    with torch.no_grad():
        module.V.weight.mul_(3)
    scaled, _ = run(model)
    assert not torch.allclose(scaled, plain)
    # Elsewhere, and back: the views are of another tensor then.
    model.double().float()
    found, products = run(model)
    torch.testing.assert_close(found, scaled)
    module.V = nn.Sequential(module.V)  # as an adapter does
    found, more = run(model)
    torch.testing.assert_close(found, scaled)
    assert more > products


def test_gradients_reach_each_weight():
    model = eckart.fuse(factored(LLAMA, "lowrank")).train()
    model(**model.dummy_inputs).logits.square().sum().backward()
    for name, module in model.named_modules():
        if isinstance(module, FactoredLinear):
            assert module.V.weight.grad is not None, name


def test_a_copy_is_fused_by_itself():
    model = eckart.fuse(factored(LLAMA, "lowrank"))
    other = copy.deepcopy(model)
    expected, _ = run(model)
    with torch.no_grad():
        other.model.layers[0].self_attn.q_proj.V.weight.zero_()
    assert not torch.equal(run(other)[0], expected)
    assert torch.equal(run(model)[0], expected)


def test_another_input_in_between_is_not_mistaken():
    model = eckart.fuse(factored(LLAMA, "lowrank"))
    attention = model.model.layers[0].self_attn
    one, two = torch.randn(2, 1, 5, 48)
    with torch.no_grad():
        attention.q_proj(one)
        found = attention.k_proj(two)
        torch.testing.assert_close(found, attention.k_proj.U(attention.k_proj.V(two)))


def test_what_stands_alone_stays_alone():
    model = eckart.fuse(factored(GPT2, "lowrank"))
    assert shared_of(model) == []


def test_a_dense_model_has_nothing_to_fuse():
    with pytest.raises(UsageError, match="no low-rank structure"):
        eckart.fuse(LLAMA.build())


@pytest.mark.parametrize("structure", SPECTRAL)
def test_a_fused_model_compiles_in_one_graph(structure):
    model = eckart.fuse(factored(LLAMA, structure))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    ids = torch.randint(96, (1, 9))
    with torch.no_grad():
        torch.testing.assert_close(compiled(ids).logits, model(ids).logits)
