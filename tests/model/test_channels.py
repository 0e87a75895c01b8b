"""Inner channels of MLPs are found without a name being known, in any architecture, or there are none."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures import (
    ARCHITECTURES,
    BERT,
    GPT2,
    LLAMA,
    MAMBA,
    MIXTRAL,
    OPT,
    PHI3,
    T5,
    outputs,
    some_inputs,
)
from torch import nn

import eckart
from eckart.model import channels, loading, replacing
from eckart.model.replacing import count_parameters
from eckart.structures import NarrowLinear
from eckart.types import UsageError

NAMES = {
    # architecture: endings of what writes, of what reads, and how many of a writer's rows a channel has.
    "gpt2": (("mlp.c_fc",), "mlp.c_proj", 1),
    "opt": (("fc1",), "fc2", 1),
    "phi3": (("mlp.gate_up_proj",), "mlp.down_proj", 2),
    "t5": (("DenseReluDense.wi_0", "DenseReluDense.wi_1"), "DenseReluDense.wo", 1),
    "bert": (("intermediate.dense",), "output.dense", 1),
}
GATED = (("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj", 1)
NARROWED = [each for each in ARCHITECTURES if each is not MAMBA]
PLAIN = [each for each in NARROWED if each is not MIXTRAL]


def found_in(model: Any) -> Any:
    return channels.find_targets(model, None, None, ["narrow-mlp"])


def narrowed(model: Any, out: Any, tokenizer: Any, data: str, **more: Any) -> Any:
    asked = {"method": "narrow-mlp", "of": "targets", "data": data, "cache": False, **more}
    return eckart.compress(model, out, tokenizer=tokenizer, **asked)


@pytest.mark.parametrize("architecture", PLAIN, ids=str)
@pytest.mark.parametrize("meta", [False, True])
def test_what_writes_and_reads_channels_is_found(architecture: Any, meta: bool) -> None:
    with torch.device("meta" if meta else "cpu"):
        model = architecture.make()
    writers, reader, sets = NAMES.get(architecture.name, GATED)
    targets = found_in(model).targets
    groups: dict[str, list[Any]] = {}
    for target in targets:
        if target.group is not None:
            groups.setdefault(target.group, []).append(target)
    assert groups
    for name, members in groups.items():
        assert name.endswith(reader)
        block = name.removesuffix(reader)
        assert {each.name.removeprefix(block) for each in members} == {*writers, reader}
        for each in members:
            assert each.inner is not None
            side, width = each.inner
            assert side == ("inputs" if each.name == name else "outputs")
            assert width == (each.in_features if side == "inputs" else each.out_features // sets)
    endings = (*writers, reader)
    attention = "attention.output.dense"  # BERT's has the end of its MLP's name
    assert {each.name for each in targets if each.group is None} == {
        each.name for each in targets if not each.name.endswith(endings) or attention in each.name
    }


def test_a_mixtures_experts_have_channels_of_their_own() -> None:
    targets = found_in(MIXTRAL.build()).targets
    groups = {each.group for each in targets if each.group}
    experts = [each for each in targets if "experts" in each.name]
    assert experts
    assert all(each.group for each in experts)
    for group in groups:
        members = [each.name for each in targets if each.group == group]
        assert len({name.rpartition(".")[2] for name in members}) == 1, members


def test_a_model_whose_width_more_depends_on_has_none() -> None:
    with pytest.raises(UsageError, match="neither writes nor reads the inner channels"):
        eckart.compress(MAMBA.build(), keep=0.9, structure="narrow-mlp", method="svd")


def test_a_weight_that_shares_channels_with_no_target_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be narrowed by itself"):
        eckart.compress(
            LLAMA.build(), keep=0.9, structure="narrow-mlp", method="svd", targets=["gate_proj", "q_proj"]
        )


class Mixed(nn.Module):
    """An MLP whose channels are mixed before they are read."""

    def __init__(self, mlp: Any) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = mlp.gate_proj, mlp.up_proj, mlp.down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.silu(self.gate_proj(x)) * self.up_proj(x)
        answer: torch.Tensor = self.down_proj(inner.cumsum(-1))
        return answer


def test_channels_that_depend_on_each_other_are_refused_and_nothing_changes() -> None:
    model = LLAMA.build()
    model.model.layers[1].mlp = Mixed(model.model.layers[1].mlp)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UsageError, match="depend on each other"):
        eckart.compress(model, keep=0.9, structure="narrow-mlp", method="svd")
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize("architecture", NARROWED, ids=str)
def test_a_model_of_one_width_is_plain_and_loads_without_eckart(
    architecture: Any, tokenizer: Any, data: str, tmp_path: Any
) -> None:
    import transformers

    model, inputs = architecture.build(), some_inputs(architecture)
    made = narrowed(model, tmp_path / "out", tokenizer, data, keep=0.8)
    assert made.manifest.narrow
    count = made.manifest.parameters
    assert count.after == count_parameters(model)
    assert 0.7 < count.targets_after / count.targets_before <= 0.8
    assert not hasattr(model.config, "quantization_config")
    assert not any(isinstance(module, NarrowLinear) for module in model.modules())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "an ordinary model of its class" in card
    assert "as large as before" not in card
    loaded = getattr(transformers, architecture.auto).from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(outputs(loaded, inputs), outputs(model, inputs), atol=1e-5)
    assert eckart.verify(tmp_path / "out").ok


def test_a_narrow_folder_is_exported_and_trained_as_what_it_is(
    tokenizer: Any, data: str, tmp_path: Any
) -> None:
    made = narrowed(LLAMA.build(), tmp_path / "narrow", tokenizer, data, keep=0.8)
    exported = eckart.export(tmp_path / "narrow", tmp_path / "ready", format="gguf-ready")
    assert not any("as large" in note for note in exported.notes)
    eckart.recover(tmp_path / "narrow", tmp_path / "trained", data=data, steps=2, batch=2, train="all")
    for name in ("ready", "trained"):
        manifest = eckart.verify(tmp_path / name)
        assert manifest.ok, name
        loaded = loading.load_model(tmp_path / name)
        assert count_parameters(loaded) == made.manifest.parameters.after
        assert not hasattr(loaded.config, "quantization_config")


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, OPT, PHI3, T5, BERT, MIXTRAL], ids=str)
def test_widths_of_their_own_are_saved_with_entries_and_come_back(
    architecture: Any, tokenizer: Any, data: str, tmp_path: Any
) -> None:
    model, inputs = architecture.build(), some_inputs(architecture)
    made = narrowed(model, tmp_path / "out", tokenizer, data, keep=0.8, allocation="waterfill")
    sizes = {each.option.size for each in made.manifest.targets if each.option.size}
    if not made.manifest.narrow:
        assert len(sizes) > 1
        assert any(isinstance(module, NarrowLinear) for module in model.modules())
    loaded = loading.load_model(tmp_path / "out")
    assert torch.allclose(outputs(loaded, inputs), outputs(model, inputs), atol=1e-5)
    assert eckart.verify(tmp_path / "out").ok


@pytest.mark.parametrize("architecture", PLAIN, ids=str)
def test_the_narrow_model_is_the_dense_one_with_what_is_read_fitted(
    architecture: Any, tokenizer: Any, data: str
) -> None:
    """As plain modules, it answers as the dense model with the weights that its structures stand for."""
    model, inputs = architecture.build(), some_inputs(architecture)
    narrowed(model, None, tokenizer, data, keep=0.7, allocation="waterfill")
    narrow = outputs(model, inputs)

    replacing.merge(model)
    assert torch.allclose(outputs(model, inputs), narrow, atol=1e-4)
