"""Budgets in bytes: the files are no larger than asked, and nearly as large."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import BERT, LLAMA, T5

import eckart
from eckart import UsageError
from eckart.recipes.making import make_recipe
from eckart.recipes.names import EVERY_BITS


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


@pytest.mark.parametrize("share", [0.7, 0.4, 0.3])
def test_auto_gives_each_weight_its_bits_where_a_size_is_all_that_is_said(share, stored, data, tmp_path):
    dense = on_disk(stored(LLAMA))
    size, ends = int(share * dense), []
    for blocks in (False, True):
        out = tmp_path / str(blocks)
        made = eckart.compress(stored(LLAMA), out, size=size, data=data, blocks=blocks)
        assert made.manifest.recipe.quantize == EVERY_BITS
        assert 0.97 * size <= on_disk(out) <= size
        assert eckart.verify(out).ok
        ends.append([record.option for record in made.manifest.targets])
    assert ends[0] == ends[1]
    assert len({option.bits for option in ends[0]}) > 1
    for said in ({"quantize": "none"}, {"structure": "pivoted"}, {"allocation": "waterfill"}):
        assert None in make_recipe(size=size, data=data, **said).bits[:1]
        assert len(make_recipe(size=size, data=data, **said).bits) == 1


@pytest.mark.parametrize(
    ("size", "expected"), [(3_000_000, "int8"), (2_000_000, "int4"), (1_000_000, "int2")]
)
def test_a_plan_of_a_size_shows_a_mix(size, expected):
    planned = eckart.plan("pocket", size=size)
    assert 0.97 * size <= planned.bytes.after <= size
    assert expected in {row.option.bits for row in planned.sites}
    assert any("shown is what it would give usual ones" in note for note in planned.notes)


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
