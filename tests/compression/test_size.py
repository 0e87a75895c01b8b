"""Budgets in bytes: the files are no larger than asked, and nearly as large."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import BERT, LLAMA, T5

import eckart
from eckart import UsageError


def on_disk(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("structure", "quantize"), [("lowrank", "int8"), ("pivoted", "int4"), ("pivoted", None)]
)
def test_the_pocket_model_ends_just_below_the_size(structure, quantize, tmp_path):
    size = 1_000_000
    options = {"size": size, "method": "svd", "structure": structure, "quantize": quantize}
    made = eckart.compress("pocket", tmp_path / "out", **options)
    assert 0.98 * size <= on_disk(tmp_path / "out") <= size
    planned = eckart.plan("pocket", **options)
    assert planned.bytes == made.manifest.bytes
    assert planned.parameters == made.manifest.parameters
    assert [row.option for row in planned.sites] == [record.option for record in made.manifest.targets]


@pytest.mark.parametrize("architecture", [BERT, T5], ids=str)
def test_tied_weights_and_biases_are_counted_once(architecture, stored, tmp_path):
    dense = on_disk(stored(architecture))
    size = int(0.8 * dense)
    eckart.compress(stored(architecture), tmp_path / "out", size=size, method="svd", structure="pivoted")
    assert 0.96 * size <= on_disk(tmp_path / "out") <= size


@pytest.mark.parametrize("allocation", ["waterfill", "auto"])
def test_every_allocation_keeps_to_the_size(allocation, stored, data, tmp_path):
    size = int(0.5 * on_disk(stored(LLAMA)))
    ends = []
    for blocks in (False, True):
        out = tmp_path / str(blocks)
        made = eckart.compress(
            stored(LLAMA), out, size=size, allocation=allocation, data=data, blocks=blocks, recovery="none"
        )
        assert 0.97 * size <= on_disk(out) <= size
        ends.append([record.rank for record in made.manifest.targets])
    assert ends[0] == ends[1]


def test_a_size_that_holds_the_model_leaves_it_dense(stored, tmp_path):
    made = eckart.compress(stored(LLAMA), tmp_path / "out", size=10**9, method="svd")
    assert all(record.rank is None for record in made.manifest.targets)


def test_the_smallest_size_is_named_and_can_be_had(stored, tmp_path):
    with pytest.raises(UsageError, match=r"size 1 kB is smaller.*it takes ([\d,]+) bytes") as refused:
        eckart.compress(stored(LLAMA), tmp_path / "out", size=1000, method="svd")
    words = str(refused.value).split()
    least = int(words[words.index("bytes;") - 1].replace(",", ""))
    eckart.compress(stored(LLAMA), tmp_path / "out", size=least, method="svd")
    assert on_disk(tmp_path / "out") <= least
    with pytest.raises(UsageError, match="exactly one of"):
        eckart.compress(stored(LLAMA), tmp_path / "more", size=1000, keep=0.5)
    with pytest.raises(UsageError, match="is not a number of bytes"):
        eckart.plan("pocket", size=0)
