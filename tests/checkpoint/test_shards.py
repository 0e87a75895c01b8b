"""Weights in a file for each part, and an index that transformers reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from eckart.checkpoint import open_checkpoint, read_shard, shard_name, write_index, write_shard
from eckart.types import EckartError

PARTS = [
    {"a": torch.arange(6.0).reshape(2, 3)},
    {"b": torch.ones(4, dtype=torch.bfloat16), "c": torch.arange(3)},
]


def test_parts_are_read_as_one(tmp_path: Path) -> None:
    names = [shard_name(part, len(PARTS)) for part in range(len(PARTS))]
    assert names == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    for name, tensors in zip(names, PARTS, strict=True):
        write_shard(tmp_path / name, tensors)
    write_index(tmp_path, names)
    stored = open_checkpoint(tmp_path)
    for tensors in PARTS:
        for name, tensor in tensors.items():
            assert torch.equal(stored.read(name), tensor)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 13, "total_size": 24 + 8 + 24}
    with safe_open(tmp_path / names[0], framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    assert set(read_shard(tmp_path / names[1]).tensors) == {"b", "c"}


def test_same_tensors_give_the_same_bytes_and_replace_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "one"
    write_shard(path, PARTS[1])
    before = path.read_bytes()
    write_shard(path, dict(reversed(PARTS[1].items())))
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["one"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(EckartError, match="could not be written"):
        write_shard(tmp_path / "no" / "folder", PARTS[0])
    assert not list(tmp_path.iterdir())
