"""What a model folder is said to hold, and each way in which it may be broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from eckart.checkpoint import open_checkpoint, sha256
from eckart.types import EckartError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
A, B, C = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(5, np.float16), np.arange(4, dtype=np.int64)


@pytest.fixture
def single(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": A, "b": B, "c": C, "again": A, "empty": np.zeros((0, 3), np.float32)}, tmp_path / SINGLE)
    return tmp_path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    save_file({"a": A, "c": C}, tmp_path / FIRST, metadata={"format": "pt"})
    save_file({"b": B}, tmp_path / SECOND)
    write_index(tmp_path, {"a": FIRST, "b": SECOND, "c": FIRST})
    return tmp_path


def write_index(folder: Path, weight_map: object) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_header(path: Path, header: object, data: bytes = b"") -> None:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def refused(folder: Path) -> str:
    with pytest.raises(EckartError) as caught:
        open_checkpoint(folder)
    return str(caught.value)


def test_single_file_is_read_by_its_header(single: Path) -> None:
    found = open_checkpoint(single)
    assert {name: (t.dtype, t.shape, t.nbytes) for name, t in found.tensors.items()} == {
        "a": ("F32", (2, 3), 24),
        "again": ("F32", (2, 3), 24),
        "b": ("F16", (5,), 10),
        "c": ("I64", (4,), 32),
        "empty": ("F32", (0, 3), 0),
    }
    assert found.nbytes == 24 + 24 + 10 + 32
    assert found.parameters == 6 + 6 + 5
    assert found.files == [single / SINGLE]


def test_each_tensor_starts_where_its_bytes_are(single: Path) -> None:
    found = open_checkpoint(single)
    content = (single / SINGLE).read_bytes()
    for name, array in {"a": A, "b": B, "c": C}.items():
        stored = found.tensors[name]
        assert content[stored.start : stored.start + stored.nbytes] == array.tobytes()


def test_shards_are_read_as_one(sharded: Path) -> None:
    found = open_checkpoint(sharded)
    assert {name: stored.file for name, stored in found.tensors.items()} == {
        "a": FIRST,
        "b": SECOND,
        "c": FIRST,
    }
    assert found.files == [sharded / FIRST, sharded / SECOND]
    assert found.nbytes == 24 + 10 + 32


def test_single_file_goes_before_an_index_as_in_transformers(sharded: Path) -> None:
    save_file({"z": A}, sharded / SINGLE)
    assert list(open_checkpoint(sharded).tensors) == ["z"]


def test_same_is_equal_bytes_of_equal_shape_and_type(tmp_path: Path) -> None:
    big = np.random.default_rng(0).normal(size=300_000)
    other = big.copy()
    other[-1] += 1
    save_file(
        {
            "one": big,
            "two": big.copy(),
            "other": other,
            "flat": A,
            "turned": A.reshape(3, 2),
            "typed": A.view(np.int32),
        },
        tmp_path / SINGLE,
    )
    found = open_checkpoint(tmp_path)
    assert found.same("one", "two")
    assert not found.same("one", "other")
    assert not found.same("flat", "turned")
    assert not found.same("flat", "typed")


def test_same_across_shards(sharded: Path) -> None:
    save_file({"b": A}, sharded / SECOND)
    assert open_checkpoint(sharded).same("a", "b")


def test_file_cut_after_it_was_opened_is_an_error_and_not_an_endless_wait(single: Path) -> None:
    found = open_checkpoint(single)
    with (single / SINGLE).open("r+b") as file:
        file.truncate(found.tensors["a"].start + 3)
    with pytest.raises(EckartError, match=r"model\.safetensors is truncated"):
        found.same("a", "again")


def test_sha256_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_file_cut_anywhere_is_refused(single: Path) -> None:
    whole = (single / SINGLE).read_bytes()
    for length in (*range(10), *range(10, len(whole), 37), len(whole) - 1):
        (single / SINGLE).write_bytes(whole[:length])
        message = refused(single)
        assert str(single / SINGLE) in message
        assert "truncated or corrupt" in message


def test_file_with_more_than_its_header_says_is_refused(single: Path) -> None:
    with (single / SINGLE).open("ab") as file:
        file.write(b"\0")
    assert "bytes where its header says" in refused(single)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
BAD_HEADERS: dict[str, object] = {
    "no JSON": b"\x00\x01\x02\x03",
    "no UTF-8": b'{"\xff": 1}',
    "a list": [],
    "a number": 3,
    "an entry that is none": {"a": 3},
    "an entry without a shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "an entry without offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "one offset": {"a": {**ENTRY, "data_offsets": [8]}},
    "offsets in words": {"a": {**ENTRY, "data_offsets": ["0", "8"]}},
    "a shape in words": {"a": {**ENTRY, "shape": ["two"]}},
    "a shape of another size": {"a": {**ENTRY, "shape": [3]}},
    "a place before the data": {"a": {**ENTRY, "data_offsets": [-8, 0]}},
    "a hole": {"a": ENTRY, "b": {**ENTRY, "data_offsets": [16, 24]}},
    "two in one place": {"a": ENTRY, "b": ENTRY},
    "nested without end": b"[" * 100_000,
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_corrupt_header_is_refused(single: Path, kind: str) -> None:
    for size in (0, 8, 24):
        write_header(single / SINGLE, BAD_HEADERS[kind], bytes(size))
        message = refused(single)
        assert str(single / SINGLE) in message
        assert "truncated or corrupt" in message


def test_header_longer_than_any_is_refused_unread(single: Path) -> None:
    (single / SINGLE).write_bytes((2**63).to_bytes(8, "little") + bytes(100))
    assert "its header is cut short" in refused(single)


def test_dtype_that_is_not_known_is_named(single: Path) -> None:
    write_header(single / SINGLE, {"a": {**ENTRY, "dtype": "F4"}}, bytes(8))
    assert refused(single) == f"{single / SINGLE} has tensors of dtype F4, which Eckart does not read"


def test_missing_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    message = refused(sharded)
    assert str(sharded) in message
    assert SECOND in message
    assert "missing" in message


def test_broken_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).write_bytes(b"")
    assert str(sharded / SECOND) in refused(sharded)


def test_shard_without_a_tensor_of_the_index_is_named(sharded: Path) -> None:
    save_file({"other": B}, sharded / SECOND)
    message = refused(sharded)
    assert f"{INDEX} says b is in {SECOND}" in message
    # Nor is it enough that another shard has it: transformers would read the one that is named.
    save_file({"a": A, "b": B, "c": C}, sharded / FIRST)
    assert f"{INDEX} says b is in {SECOND}" in refused(sharded)


@pytest.mark.parametrize(
    "name", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ".", "", None, 3]
)
def test_index_that_points_outside_its_folder_is_refused(sharded: Path, name: object) -> None:
    save_file({"b": B}, sharded.parent / SINGLE)
    write_index(sharded, {"a": FIRST, "b": name})
    message = refused(sharded)
    assert str(sharded / INDEX) in message
    assert "outside its folder" in message
    assert repr(name) in message


BAD_INDEXES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "no JSON": lambda path: path.write_text("{"),
    "no UTF-8": lambda path: path.write_bytes(b'{"weight_map": {"\xff": "x"}}'),
    "a list": lambda path: path.write_text("[]"),
    "no map": lambda path: path.write_text("{}"),
    "a map that is none": lambda path: path.write_text('{"weight_map": 3}'),
    "lists for names": lambda path: path.write_text('{"weight_map": {"a": []}}'),
    "an empty map": lambda path: path.write_text('{"weight_map": {}}'),
    "nested without end": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("kind", BAD_INDEXES)
def test_corrupt_index_is_refused(sharded: Path, kind: str) -> None:
    BAD_INDEXES[kind](sharded / INDEX)
    message = refused(sharded)
    assert str(sharded / INDEX) in message
    assert "fetch it again" in message


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "tf_model.h5", "model-q4.gguf"])
def test_weights_of_another_kind_are_named_and_not_opened(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"anything")
    message = refused(tmp_path)
    assert str(tmp_path) in message
    assert f"only as {name}" in message
    assert "safetensors alone" in message


def test_config_without_weights_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert refused(tmp_path) == (
        f"{tmp_path} has a config but no weights: model.safetensors or its index is missing"
    )


def test_folder_without_config_is_no_model_folder(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert refused(folder) == f"{folder} is not a model folder: it has no config.json and no weights"


def test_a_tensor_is_read_as_it_was_written(single: Path) -> None:
    found = open_checkpoint(single)
    for name, array in {"a": A, "b": B, "c": C, "empty": np.zeros((0, 3), np.float32)}.items():
        assert np.array_equal(found.read(name).numpy(), array)


def test_every_dtype_that_torch_has_is_read(tmp_path: Path) -> None:
    tensors = {
        str(dtype): torch.arange(6).reshape(2, 3).to(dtype)
        for dtype in (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2, torch.bool)
    }
    save_torch(tensors, tmp_path / SINGLE)
    found = open_checkpoint(tmp_path)
    for name, tensor in tensors.items():
        read = found.read(name)
        assert (read.dtype, read.tolist()) == (tensor.dtype, tensor.tolist())


def test_a_tensor_is_read_from_its_shard_and_no_other_byte(sharded: Path) -> None:
    found = open_checkpoint(sharded)
    assert np.array_equal(found.read("b").numpy(), B)
    (sharded / FIRST).unlink()
    assert np.array_equal(found.read("b").numpy(), B)


def test_a_tensor_of_a_file_that_was_cut_is_an_error(single: Path) -> None:
    found = open_checkpoint(single)
    with (single / SINGLE).open("r+b") as file:
        file.truncate(found.tensors["a"].start + 3)
    with pytest.raises(EckartError, match=r"model\.safetensors is truncated or corrupt: it ends within a"):
        found.read("a")
