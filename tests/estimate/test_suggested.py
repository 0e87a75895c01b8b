"""What `plan` says where no size was asked for: its plans of several, and figures that were measured."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
from architectures import BERT, LLAMA
from outside import Eckart

import eckart
from eckart.estimate.suggested import DENSE, EXPERIENCE, KEEPS, Suggested, experience
from eckart.recipes import METHODS
from eckart.recipes.making import make_recipe
from eckart.types import UsageError


def suggested(model: Any, **options: Any) -> Suggested:
    found = eckart.plan(model, **options)
    assert isinstance(found, Suggested)
    return found


WAYS: list[dict[str, Any]] = [
    {},
    {"of": "targets"},
    {"method": "svd-llm"},
    {"targets": ["up_proj", "down_proj"], "of": "targets"},
]
MEASURED = [(model, name) for model, rows in EXPERIENCE.items() for name in rows]


@pytest.mark.parametrize("options", WAYS)
def test_each_row_is_the_plan_of_its_size(options: dict[str, Any]) -> None:
    for row in suggested("pocket", **options).rows:
        plan = eckart.plan("pocket", keep=row.keep, **options)
        assert row.plan.parameters == plan.parameters
        assert row.plan.bytes == plan.bytes
        assert row.speed == pytest.approx(plan.parameters.targets_before / plan.parameters.targets_after)


def test_sizes_that_are_not_possible_are_left_out_and_that_is_said(stored: Any) -> None:
    found = suggested("pocket", targets=["up_proj"], method="svd")
    kept = [row.keep for row in found.rows]
    assert kept == [keep for keep in KEEPS if keep in kept]
    assert len(kept) < len(KEEPS)
    assert any("keep" in note and "is lower than the model allows" in note for note in found.notes)
    with pytest.raises(UsageError, match="lower than the model allows"):
        eckart.plan(stored(LLAMA), targets=["layers.0.self_attn.k_proj"])


@pytest.mark.parametrize(("model", "method"), MEASURED)
def test_experience_is_what_was_measured_and_falls_in_between(model: str, method: str) -> None:
    assert method in METHODS
    recipe = make_recipe(method=method, keep=0.5, data="pocket")
    for keep, value in EXPERIENCE[model][method].items():
        assert experience(recipe, keep)[model].value == pytest.approx(value / DENSE[model], rel=1e-6)
        assert experience(recipe, keep)[model].bound == ""
    excess = [log(experience(recipe, left / 100)[model].value) for left in range(95, 30, -5)]
    assert excess == sorted(excess)
    assert experience(recipe, 0.95)[model].bound == "<"
    assert experience(recipe, 0.35)[model].bound == ">"


def test_nothing_is_said_of_what_was_not_measured(stored: Any) -> None:
    others: list[dict[str, Any]] = [
        {"method": "lplr"},
        {"method": "svd-llm", "structure": "pivoted"},
        {"method": "svd-llm", "quantize": "int8"},
        {"method": "svd", "layers": "top:2"},
    ]
    for options in others:
        assert experience(make_recipe(**options, keep=0.5, data="pocket"), 0.5) == {}
    assert suggested(stored(BERT)).rows[0].perplexity == {}


def test_the_command_shows_it(process: Eckart) -> None:
    answer = process("plan", "pocket")
    assert "sizes to choose from" in answer.out
    assert "of this model nothing was measured" in answer.out
    assert "32,768 tokens of data" in answer.out
    assert answer.err == ""
    rows = process("plan", "pocket", "--method", "svd", "--json").json["sizes"]
    assert [row["keep"] for row in rows] == list(KEEPS)
    assert rows[1]["perplexity"]["pocket"]["value"] > 1
    assert "tokens of data" not in process("plan", "pocket", "--method", "svd").out


def test_it_shows_itself() -> None:
    found = suggested("pocket")
    assert "LlamaForCausalLM, auto" in repr(found)
    assert "<table>" in found._repr_html_()
