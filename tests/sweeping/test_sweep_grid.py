"""Which models a sweep tries, what they come to, and how a choice is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from architectures import LLAMA, T5

from eckart import UsageError
from eckart.model import building, loading
from eckart.model.targets import spelled_out
from eckart.sweeping.grid import cost, left, make_grid
from eckart.types import Target

MISTRAL_7B = Path(__file__).parents[1] / "configs" / "mistral-7b"


@pytest.mark.parametrize(
    ("ratio", "published"),
    [(0.1, [97.4, 94.8, 92.2, 89.6]), (0.25, [98, 96, 94, 92]), (0.5, [99, 98, 97, 96])],
)
def test_top_layers_of_mistral_leave_what_was_published(ratio: float, published: list[float]) -> None:
    model = building.build_empty(loading.load_config(MISTRAL_7B))
    grid = make_grid(model, [ratio], ["top:1..4"], None)
    total = model.num_parameters()
    found = [100 * left(total, grid.targets, place.ranks, "lowrank") / total for place in grid.places]
    if ratio == 0.1:
        assert [round(share, 1) for share in found] == published
    assert found == pytest.approx(published, abs=0.75)


@pytest.mark.parametrize(
    ("written", "choices"),
    [
        ("top:1..3", ["top:1", "top:2", "top:3"]),
        ("0..2", ["0", "1", "2"]),
        ("bottom:2..2", ["bottom:2"]),
        ("0,2..3", ["0,2", "0,3"]),
        ("3-7", ["3-7"]),
        ("1..2,8..9", ["1,8", "1,9", "2,8", "2,9"]),
    ],
)
def test_two_dots_stand_for_one_choice_for_each_number(written: str, choices: list[str]) -> None:
    assert spelled_out(written) == choices


@pytest.mark.parametrize("written", ["top:3..1", "0..99999999999"])
def test_a_range_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(UsageError, match=rf"--layers {written}: .* is no range"):
        spelled_out(written)


def test_a_weight_counts_as_the_cheaper_of_its_factors_and_its_product() -> None:
    target = Target("w", 48, 48, False)
    assert cost(target, 10, "lowrank") == 960
    assert cost(target, 24, "lowrank") == cost(target, 40, "lowrank") == 48 * 48
    assert cost(target, 40, "pivoted") == 40 * (96 - 40)
    assert cost(target, 48, "pivoted") == 48 * 48
    assert left(10_000, [target], {"w": 10}, "lowrank") == 10_000 - 48 * 48 + 960
    assert left(10_000, [target], {}, "lowrank") == 10_000


def test_a_grid_is_every_ratio_with_every_choice() -> None:
    model = LLAMA.build()
    grid = make_grid(model, [0.5, 0.01], ["top:1", "0..1"], ["q_proj", "up_proj,down_proj"])
    assert [place.label for place in grid.places] == [
        f"{ratio}:{layers}:{kinds}"
        for kinds in ("q_proj", "up_proj,down_proj")
        for ratio in ("0.5", "0.01")
        for layers in ("top:1", "0", "1")
    ]
    assert grid.find("0.01:top:1:q_proj").ranks == {"model.layers.1.self_attn.q_proj": 1}
    assert grid.find("0.5:0:up_proj,down_proj").ranks == {
        "model.layers.0.mlp.up_proj": 24,
        "model.layers.0.mlp.down_proj": 24,
    }
    for label in ("0.5:top:1", "0.5:top:7:q_proj"):
        with pytest.raises(UsageError, match=f"--cell {label}"):
            grid.find(label)


def test_a_label_may_leave_out_targets_where_there_is_one_choice() -> None:
    grid = make_grid(LLAMA.build(), [0.5], ["top:1"], ["q_proj"])
    assert grid.find("0.5:top:1") is grid.find("0.5:top:1:q_proj") is grid.places[0]


def test_by_default_the_top_layers_and_never_more_than_there_are() -> None:
    grid = make_grid(LLAMA.build(), [0.5], None, None)
    assert [place.layers for place in grid.places] == ["top:1", "top:2"]
    assert grid.notes == []
    grid = make_grid(LLAMA.build(), [0.5], ["top:1..12"], None)
    assert [place.layers for place in grid.places] == ["top:1", "top:2"]
    assert grid.notes == ["top:3 to top:12 are left out: the model has 2 blocks"]
    with pytest.raises(UsageError, match="the model has 2 blocks"):
        make_grid(LLAMA.build(), [0.5], ["top:3..4"], None)


def test_every_stack_has_its_own_top() -> None:
    (place,) = make_grid(T5.build(), [0.5], ["top:1"], None).places
    assert {name.split(".")[0] for name in place.ranks} == {"encoder", "decoder"}
    assert all(".block.1." in name for name in place.ranks)
