"""A model of which one block is in memory is the one that transformers loads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, LLAMA, MIXTRAL, T5, outputs, some_inputs
from safetensors.torch import load_file, save_file

from eckart.checkpoint import open_checkpoint
from eckart.model import loading
from eckart.model.streaming import NotStoredByBlockError, Streamed
from eckart.types import EckartError

STORED = [architecture for architecture in ARCHITECTURES if architecture is not MIXTRAL]


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("architecture", STORED, ids=str)
def test_weights_and_buffers_are_those_that_transformers_loads(architecture, dtype, stored):
    folder = stored(architecture)
    whole, streamed = loading.load_model(folder, dtype=dtype), Streamed(open_checkpoint(folder), dtype=dtype)
    found: dict[str, torch.Tensor] = {}
    for name in streamed.blocks:
        block = streamed.model.get_submodule(name)
        assert all(weight.is_meta for weight in block.parameters())
        with streamed.resident(block):
            found |= {f"{name}.{key}": value for key, value in block.state_dict().items()}
        assert all(weight.is_meta for weight in block.parameters())
    found |= {key: value for key, value in streamed.model.state_dict().items() if not value.is_meta}
    found |= {f"buffer {key}": value for key, value in streamed.model.named_buffers()}
    expected = whole.state_dict() | {f"buffer {key}": value for key, value in whole.named_buffers()}
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key
    assert streamed.model.config.to_dict() == whole.config.to_dict()


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_it_runs_by_itself_with_each_block_in_its_turn(architecture, stored):
    folder = stored(architecture)
    streamed, inputs = Streamed(open_checkpoint(folder)), some_inputs(architecture)
    with streamed.on_demand():
        assert torch.equal(outputs(streamed.model, inputs), outputs(loading.load_model(folder), inputs))
    blocks = [streamed.model.get_submodule(name) for name in streamed.blocks]
    assert all(weight.is_meta for block in blocks for weight in block.parameters())


def test_block_comes_from_another_checkpoint_when_that_is_said(stored, tmp_path):
    folder = stored(LLAMA)
    streamed = Streamed(open_checkpoint(folder))
    name = streamed.blocks[1]
    tensors = {k: v + 1 for k, v in load_file(folder / "model.safetensors").items() if k.startswith(name)}
    save_file(tensors, tmp_path / "model.safetensors")
    block = streamed.model.get_submodule(name)
    streamed.come_from(block, open_checkpoint(tmp_path))
    with streamed.resident(block):
        assert torch.equal(block.mlp.up_proj.weight, tensors[f"{name}.mlp.up_proj.weight"])


def test_tied_weight_is_saved_once(stored):
    tied = next(architecture for architecture in STORED if architecture.tied)
    outside = Streamed(open_checkpoint(stored(tied))).outside()
    saved = set(load_file(stored(tied) / "model.safetensors"))
    assert set(outside) <= saved
    assert not any(tensor.is_meta for tensor in outside.values())


def test_weights_that_are_stored_otherwise_are_said(stored):
    with pytest.raises(NotStoredByBlockError, match=r"does not store .*experts"):
        Streamed(open_checkpoint(stored(MIXTRAL)))


def test_weight_of_another_shape_is_said(stored, tmp_path: Any):
    tensors = load_file(stored(LLAMA) / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"] = tensors["model.layers.1.mlp.up_proj.weight"][1:].clone()
    for path in stored(LLAMA).iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EckartError, match=r"layers\.1\.mlp\.up_proj\.weight is stored as"):
        Streamed(open_checkpoint(tmp_path))
