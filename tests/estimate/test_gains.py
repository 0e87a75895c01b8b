"""`--for speed`: no weight is cut to a size at which it is no faster than dense."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from architectures import LLAMA
from outside import Eckart

import eckart
from eckart.estimate import gains
from eckart.structures import Shape
from eckart.types import UsageError

SLOW = (8, 24)
"""Outputs and inputs of a shape whose factors are never faster."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, ...]]]:
    """Layers that take a time for their entries, and one more for being two; a large batch is no dearer."""
    asked = []

    def seconds(
        out_features: int, in_features: int, structure: str, rank: int, rows: int, *where: Any
    ) -> tuple[float, float]:
        asked.append((out_features, in_features, structure, rank, rows, *where))
        dense = out_features * in_features
        factored = rank * (out_features + in_features) * gains.MARGIN + (dense / 2 if rows == 1 else 0)
        return (factored if (out_features, in_features) != SLOW else 2 * dense), dense

    monkeypatch.setattr(gains, "_seconds", seconds)
    gains.largest_faster.cache_clear()
    yield asked
    gains.largest_faster.cache_clear()


def test_the_largest_faster_size_is_found_to_a_sixteenth(clock: list[tuple[Any, ...]]) -> None:
    for out_features, in_features in ((256, 256), (1024, 256), (256, 1024)):
        pays = out_features * in_features // (out_features + in_features)
        found = gains.largest_faster(Shape(out_features, in_features), "lowrank", pays, torch.float32, "cpu")
        # A token by itself takes half of the dense time for being two products.
        exact = pays * (1 / gains.MARGIN - 0.5) / gains.MARGIN
        assert exact - pays / 16 - 1 <= found <= exact
    assert {rows for *_, rows, _, _ in clock} == set(gains.SETTINGS)
    assert gains.largest_faster(Shape(*SLOW), "lowrank", 6, torch.float32, "cpu") == 0


def test_what_is_not_faster_is_not_chosen_and_that_is_said(
    clock: list[tuple[Any, ...]], stored: Any, data: str
) -> None:
    options: dict[str, Any] = {"keep": 0.8, "of": "targets", "method": "svd-llm"}
    small = eckart.compress(stored(LLAMA), **options, data=data).manifest
    fast = eckart.compress(stored(LLAMA), **options, data=data, goal="speed").manifest
    assert fast.parameters.targets_after <= 0.8 * fast.parameters.targets_before
    limits = {}
    for target in fast.targets:
        shape = target.out_features, target.in_features
        pays = (shape[0] * shape[1] - 1) // sum(shape)
        limits[shape] = gains.largest_faster(Shape(*shape), "lowrank", pays, torch.float32, "cpu")
        assert target.rank is None or target.rank <= limits[shape]
    assert any(
        (before.rank or 0) > limits[(before.out_features, before.in_features)] for before in small.targets
    )
    assert any(target.structure == "dense" for target in fast.targets)
    (said,) = [note for note in fast.notes if note.startswith("for speed, what is no faster than dense")]
    assert all(f"of {rows}x{columns}" in said for rows, columns in limits)
    assert fast.recipe.goal == "speed"


def test_a_size_that_no_faster_layer_reaches_is_refused(clock: list[tuple[Any, ...]], stored: Any) -> None:
    small = eckart.plan(stored(LLAMA), keep=0.3, of="targets", goal="speed")
    assert small.parameters.targets_after <= 0.3 * small.parameters.targets_before
    gains.largest_faster.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gains, "_seconds", lambda *given: (2.0, 1.0))
        with pytest.raises(UsageError, match="--for speed"):
            eckart.plan(stored(LLAMA), keep=0.3, of="targets", goal="speed")


@pytest.mark.parametrize(
    "option",
    [["--quantize", "int8"], ["--recovery", "basis-selection", "--tokens", "1k"], ["--energy", "0.9"]],
)
def test_what_leaves_no_choice_of_sizes_is_refused(
    option: list[str], process: Eckart, stored: Any, data: str
) -> None:
    size = [] if "--energy" in option else ["--keep", "0.5"]
    asked = process("compress", stored(LLAMA), "-o", "out", *size, "--data", data, "--for", "speed", *option)
    assert (asked.code, asked.out) == (2, "")
    assert "leaves no such choice" in asked.err


def test_layers_are_really_timed(process: Eckart, stored: Any) -> None:
    found = process("plan", stored(LLAMA), "--keep", "0.9", "--for", "speed", "--json")
    # On a machine of its own a tiny layer in two pieces is never faster.
    if found.code:
        assert found.code == 2
        assert "--for speed leaves dense what is no faster" in found.err
    else:
        assert json.loads(found.out)["recipe"]["goal"] == "speed"
