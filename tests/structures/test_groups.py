"""Sites of several targets: what a structure of one's own shares between them is stored, and counts, once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import LLAMA, MIXTRAL, outputs, some_inputs
from safetensors.torch import load_file
from torch import Tensor, nn

import eckart
from eckart import structures
from eckart.model import replacing
from eckart.structures import Fitted, Part, Problem, Shape, Site, StructuredLinear

NAME = "shared-basis"
ASKED: dict[str, Any] = {"keep": 0.8, "method": "svd-llm", "structure": NAME}


class SharedLinear(StructuredLinear):
    structure = NAME

    def __init__(self, shape: Shape, size: int, **options: Any) -> None:
        super().__init__(shape.in_features, shape.out_features, size)
        self.V = nn.Linear(shape.in_features, size, bias=False, **options)
        self.U = nn.Linear(size, shape.out_features, bias=shape.bias, **options)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.U(self.V(x))
        return answer


class SharedBasis(structures.Structure):
    """Queries, keys and values of one block read their input through one `V`."""

    name = NAME

    def sites(self, targets: Sequence[Any]) -> tuple[list[Site], dict[str, str]]:
        groups: dict[str, list[Any]] = {}
        for target in targets:
            owner, _, leaf = target.name.rpartition(".")
            key = f"{owner}.qkv" if leaf in ("q_proj", "k_proj", "v_proj") else target.name
            groups.setdefault(key, []).append(target)
        return [Site(tuple(group)) for group in groups.values()], {}

    def parts(self, shape: Any, size: int) -> dict[str, Part]:
        found = {
            "V.weight": Part((size, shape.in_features), shared="V"),
            "U.weight": Part((shape.out_features, size)),
        }
        return found | ({"U.bias": Part((shape.out_features,), "bias")} if shape.bias else {})

    def fit(self, problems: Sequence[Problem], size: int) -> list[Fitted]:
        stacked = problems[0].of(torch.cat([problem.weight for problem in problems]))
        U, V = stacked.approximation(size)
        pieces = U.split([problem.weight.shape[0] for problem in problems])
        return [Fitted({"V.weight": V, "U.weight": piece}) for piece in pieces]

    def dense(self, tensors: Mapping[str, Tensor], size: int) -> tuple[Tensor, Tensor | None]:
        return tensors["U.weight"].double() @ tensors["V.weight"].double(), tensors.get("U.bias")

    def biases(self, tensors: Mapping[str, Tensor], bias: Tensor) -> dict[str, Tensor]:
        return {"U.bias": bias}

    def layer(self, shape: Any, size: int, device: Any = None, dtype: Any = None) -> nn.Module:
        return SharedLinear(shape, size, device=device, dtype=dtype)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(structures.STRUCTURES, NAME, SharedBasis())


def test_what_is_shared_is_stored_and_counts_once(stored: Any, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    planned = eckart.plan(stored(LLAMA), **ASKED)
    made = eckart.compress(stored(LLAMA), out, data=data, **ASKED)
    assert planned.parameters == made.manifest.parameters
    assert made.manifest.parameters.keep <= 0.8
    tensors = load_file(out / "model.safetensors")
    assert sum(tensor.numel() for tensor in tensors.values()) == made.manifest.parameters.after
    attention = "model.layers.0.self_attn"
    assert f"{attention}.q_proj.V.weight" in tensors
    assert f"{attention}.k_proj.V.weight" not in tensors
    sites = {record.name: record.site for record in made.manifest.targets}
    assert sites[f"{attention}.k_proj"] == f"{attention}.q_proj"
    assert sites[f"{attention}.o_proj"] is None


def test_it_loads_shared_and_says_the_same(stored: Any, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = eckart.compress(stored(LLAMA), out, data=data, **ASKED)
    model, inputs = LLAMA.load(out), some_inputs(LLAMA)
    attention = model.model.layers[1].self_attn
    assert attention.v_proj.V.weight is attention.q_proj.V.weight
    assert torch.equal(outputs(model, inputs), outputs(made.model, inputs))
    assert replacing.count_parameters(model) == made.manifest.parameters.after
    model.save_pretrained(tmp_path / "again")
    assert torch.equal(outputs(LLAMA.load(tmp_path / "again"), inputs), outputs(model, inputs))
    before = outputs(model, inputs)
    replacing.merge(model)
    assert torch.allclose(outputs(model, inputs), before, atol=1e-4)
    model.save_pretrained(tmp_path / "dense")
    assert torch.equal(outputs(LLAMA.load(tmp_path / "dense"), inputs), outputs(model, inputs))


@pytest.mark.parametrize("asked", [{}, {"allocation": "waterfill"}, {"allocation": "measured"}], ids=str)
def test_block_by_block_is_the_same(stored: Any, data: str, tmp_path: Path, asked: dict[str, Any]) -> None:
    options = ASKED | asked
    whole = eckart.compress(stored(LLAMA), tmp_path / "whole", data=data, **options)
    parts = eckart.compress(stored(LLAMA), tmp_path / "parts", data=data, blocks=True, **options)
    assert [r.option for r in parts.manifest.targets] == [r.option for r in whole.manifest.targets]
    assert parts.manifest.parameters == whole.manifest.parameters
    inputs = some_inputs(LLAMA)
    one, other = (outputs(LLAMA.load(tmp_path / name), inputs) for name in ("whole", "parts"))
    assert (one - other).norm() <= 1e-3 * one.norm()


def test_a_damaged_entry_is_refused_at_the_door(stored: Any, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    eckart.compress(stored(LLAMA), out, data=data, **ASKED)
    config = json.loads((out / "config.json").read_text())
    modules = config["quantization_config"]["modules"]
    modules["model.layers.0.self_attn.k_proj"]["site"] = "model.layers.0.self_attn.o_proj"
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"k_proj: the config says that it is in one site with"):
        LLAMA.load(out)


def test_structures_that_group_differently_are_not_mixed(stored: Any) -> None:
    with pytest.raises(eckart.UsageError, match=r"replaces other groups of weights"):
        eckart.plan(stored(LLAMA), keep=0.8, method="svd", structure=f"lowrank,{NAME}")


def test_a_group_without_some_of_its_targets(stored: Any, tmp_path: Path) -> None:
    made = eckart.compress(
        stored(MIXTRAL),
        tmp_path / "out",
        keep=0.95,
        method="svd",
        structure=NAME,
        targets=["q_proj", "v_proj"],
    )
    assert {record.site for record in made.manifest.targets if record.name.endswith("v_proj")} <= {
        record.name for record in made.manifest.targets
    }
    inputs = some_inputs(MIXTRAL)
    assert torch.equal(outputs(MIXTRAL.load(tmp_path / "out"), inputs), outputs(made.model, inputs))
