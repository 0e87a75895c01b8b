"""How much work goes into a cut: each word does something, and the plan says what it takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import eckart
from eckart import structures
from eckart.comparison.methods import read_methods
from eckart.estimate import time
from eckart.recipes import METHODS, making
from eckart.recipes.efforts import EFFORTS, NORMAL
from eckart.types import Target, UsageError

TARGETS = [Target(f"layer.{at}", 256, 256, bias=False) for at in range(4)]


def recipe(method: str, **more: Any) -> Any:
    fewer = any(structures.find(name).fewer for name in METHODS[method].structure.split(","))
    size: dict[str, Any] = {"keep": 0.6} if fewer else {"size": 10**6}
    return making.make_recipe(method=method, data="texts.txt", **size, **more)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_the_word_where_its_time_depends_on_it(method: str) -> None:
    row = METHODS[method]
    if row.by_hand or row.recovery in making.recipes.SELECTIONS:
        pytest.skip("its size is said otherwise")
    seconds = {
        name: time.seconds(
            TARGETS,
            10**9,
            recipe(method).model_copy(update={"effort": name}),
            torch.float32,
            time.Reading(calibrating=10**6),
        )
        for name in EFFORTS
    }
    if len(set(seconds.values())) > 1:
        assert recipe(method, effort="fast").effort == "fast"
        assert list(seconds) == sorted(seconds, key=seconds.__getitem__) == ["fast", NORMAL, "best"]
    else:
        with pytest.raises(UsageError, match="leave it out"):
            recipe(method, effort="best")


def test_another_word_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"bets.*best"):
        recipe("auto", effort="bets")


def test_a_cut_takes_as_much_as_it_was_told(tmp_path: Path) -> None:
    made = {
        name: eckart.compress(
            "pocket",
            tmp_path / name,
            keep=0.5,
            data="pocket",
            samples=64,
            max_length=64,
            cache=False,
            **({} if name == NORMAL else {"effort": name}),
        )
        for name in ("fast", NORMAL)
    }
    tried, said = {}, {}
    for name in made:
        manifest = json.loads((tmp_path / name / "eckart.json").read_text())
        assert manifest["recipe"]["effort"] == name
        said[name] = next(note for note in manifest["notes"] if "imitate" in note)
        tried[name] = {each["name"] for each in manifest["held_out"]["candidates"]} - {"uniform"}
        assert tried[name] <= {f"waterfill, floor {floor:g}" for floor in EFFORTS[name].floors}
    assert len(tried["fast"]) < len(tried[NORMAL])
    assert said["fast"] != said[NORMAL]


def test_the_plan_says_what_each_takes() -> None:
    planned = eckart.plan("pocket", method="auto", keep=0.8)
    assert list(planned.efforts) == list(EFFORTS)
    assert planned.compress_seconds == planned.efforts[NORMAL]
    assert list(eckart.plan("pocket", method="svd", keep=0.8).efforts) == [NORMAL]
    fast = eckart.plan("pocket", method="auto", keep=0.8, effort="fast")
    assert fast.compress_seconds == fast.efforts["fast"]


def test_a_comparison_names_it_as_another_axis() -> None:
    shared = {"of": "model", "targets": None, "layers": None, "data": "texts.txt", "samples": None}
    found = read_methods(["auto:fast", "auto"], [0.8], shared, trained=False)
    assert [each.effort for (each,) in found.values()] == ["fast", NORMAL]
    with pytest.raises(UsageError, match="leave it out"):
        read_methods(["svd:best"], [0.8], shared, trained=False)
    with pytest.raises(UsageError, match="fast and best both say the effort"):
        read_methods(["auto:fast:best"], [0.8], shared, trained=False)
