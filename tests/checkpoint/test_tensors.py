"""A file of tensors comes back as it was written, or not at all."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from eckart.checkpoint import digest, read_tensors, tensors, write_tensors
from eckart.types import EckartError

GIVEN = {
    "b/second": torch.randn(7, 5, dtype=torch.float64),
    "a": torch.randn(3).to(torch.bfloat16),
    "half of a matrix": torch.randn(6, 6)[:, ::2],
    "nothing": torch.zeros(0, 4),
    "number": torch.tensor(3),
}
WORDS = {"key": "é", "tokens": 12, "z": [1, None], "a": {"y": 1, "b": 2}}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep" / "file.safetensors"
    write_tensors(path, GIVEN, WORDS)
    found, words = read_tensors(path)
    assert same(found, GIVEN)
    assert words == WORDS
    assert list(words["a"]) == ["y", "b"]
    assert os.listdir(path.parent) == [path.name]


def test_the_same_content_is_the_same_bytes(tmp_path):
    write_tensors(tmp_path / "one.safetensors", GIVEN, WORDS)
    write_tensors(tmp_path / "two.safetensors", dict(reversed(GIVEN.items())), WORDS)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_file_that_is_there_is_replaced(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, GIVEN, WORDS)
    write_tensors(path, {"other": torch.ones(2)}, {})
    assert same(read_tensors(path)[0], {"other": torch.ones(2)})


@pytest.mark.parametrize("place", [0, 7, 8, 40, -1, -300])
def test_every_byte_is_checked(tmp_path, place):
    path = tmp_path / "file.safetensors"
    write_tensors(path, GIVEN, WORDS)
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(EckartError, match="damaged"):
        read_tensors(path)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff" * 9, b"\x02" + b"\0" * 7 + b"{}"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    path = tmp_path / "file.safetensors"
    with pytest.raises(EckartError, match=r"file\.safetensors"):
        read_tensors(path)
    path.write_bytes(content)
    with pytest.raises(EckartError, match=r"file\.safetensors"):
        read_tensors(path)


def test_a_file_cut_short_is_refused(tmp_path):
    path = tmp_path / "file.safetensors"
    write_tensors(path, GIVEN, WORDS)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(EckartError, match="damaged"):
        read_tensors(path)


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "file.safetensors"
    write_tensors(path, GIVEN, WORDS)

    def full(stored, name, metadata):
        Path(name).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "save_file", full)
    with pytest.raises(EckartError, match="No space left"):
        write_tensors(path, {"other": torch.ones(2)}, {})
    assert os.listdir(tmp_path) == [path.name]
    assert same(read_tensors(path)[0], GIVEN)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EckartError, match="could not be written"):
        write_tensors(tmp_path / "file" / "moments.safetensors", GIVEN, WORDS)


def test_several_may_write_one_file_at_once(tmp_path):
    path = tmp_path / "file.safetensors"

    def write_often(_: int) -> None:
        for _ in range(20):
            write_tensors(path, GIVEN, WORDS)

    write_often(0)
    with ThreadPoolExecutor(3) as pool:
        writers = [pool.submit(write_often, number) for number in range(3)]
        while not all(writer.done() for writer in writers):
            assert same(read_tensors(path)[0], GIVEN)
        for writer in writers:
            writer.result()
    assert os.listdir(tmp_path) == [path.name]


def test_a_digest_sees_names_shapes_dtypes_and_every_block(monkeypatch):
    x = torch.randn(64, 8)
    plain = digest([("x", x)])
    assert digest([("x", x.clone())]) == plain
    assert digest([("x", x.T.contiguous().T)]) == plain
    changed = x.clone()
    changed[-1, -1] += 1
    monkeypatch.setattr("eckart.checkpoint.digests.BLOCK", 64)
    others = [("y", x), ("x", x.reshape(8, 64)), ("x", x.view(torch.int32)), ("x", changed)]
    digests = {digest([other]) for other in others} | {digest([("x", x)]), digest([("x", x), ("x", x)])}
    assert len(digests) == len(others) + 2


def test_a_file_is_its_owners_alone(tmp_path):
    write_tensors(tmp_path / "file.safetensors", GIVEN, WORDS)
    assert stat.S_IMODE((tmp_path / "file.safetensors").stat().st_mode) & 0o077 == 0
