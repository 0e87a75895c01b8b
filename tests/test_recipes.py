"""The catalogue: every row is made of values that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from eckart import structures
from eckart.allocate import ALLOCATORS, NEEDS_ERRORS
from eckart.evaluation import measuring
from eckart.recipes import METHODS, METRICS, MOMENTS, Gram, Method, find_method, find_metric, making, names
from eckart.recipes.catalogue import by_name
from eckart.recipes.names import ALLOCATIONS, RECOVERIES
from eckart.types import UsageError

rows = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def test_names_known_without_their_rooms_are_those_of_the_rooms() -> None:
    assert set(names.ALLOCATIONS) == {*ALLOCATORS, *names.MEASURED, names.LEARNED}
    assert set(names.STRUCTURES) == set(structures.replacements())
    assert names.TASKS == measuring.TASKS


@rows
def test_every_value_of_a_row_exists(method: Method) -> None:
    assert method.metric in METRICS
    assert method.structure in structures.replacements()
    assert method.allocation in ALLOCATIONS
    assert method.recovery in RECOVERIES


@rows
def test_row_is_filed_under_its_name_and_says_its_paper_and_departure(method: Method) -> None:
    assert METHODS[method.name] is method is find_method(method.name)
    assert len(method.paper) > 10
    assert method.departure


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows are called 'svd'"):
        by_name([*METHODS.values(), METHODS["svd"]])


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_made_of_grams_that_exist_and_says_what_it_means(metric: str) -> None:
    value = METRICS[metric]
    assert {value.left, value.right} <= set(get_args(Gram))
    assert value.meaning
    assert find_metric(metric) is value


def test_every_gram_but_the_identity_is_made_from_a_sum() -> None:
    assert {gram for _, gram in MOMENTS} | {"identity"} == set(get_args(Gram))
    assert not METRICS["identity"].moments
    assert METRICS["kfac"].moments == {"second", "gradient"}
    assert METRICS["fisher-rows"].moments == {"fisher"}


@pytest.mark.parametrize("metric", METRICS)
def test_only_errors_weighed_by_gradients_are_in_units_of_the_loss(metric: str) -> None:
    value = METRICS[metric]
    assert not value.in_loss_units or value.left == "second-moment"
    # The output side has to be inverted, so a Gram there is never left as it is.
    assert (value.left == "identity") == (value.shrink == 0)


@rows
def test_row_needs_data_where_its_metric_or_its_training_does(method: Method) -> None:
    grams = {METRICS[method.metric].left, METRICS[method.metric].right}
    assert method.needs_data is (grams != {"identity"} or method.allocation == "learned")


def test_allocators_that_need_errors_are_allocators() -> None:
    assert set(ALLOCATORS) >= NEEDS_ERRORS


def test_rows_are_the_papers_choices() -> None:
    chosen = {name: (m.metric, m.structure, m.allocation) for name, m in METHODS.items()}
    assert chosen["svd"] == ("identity", "lowrank", "uniform")
    assert chosen["laser"] == chosen["svd"]
    assert [name for name, m in METHODS.items() if m.by_hand] == ["laser"]
    assert chosen["asvd"] == ("input-scale", "lowrank", "uniform")
    assert chosen["svd-llm"] == ("input", "lowrank", "uniform")
    assert chosen["fwsvd"] == ("fisher-rows", "lowrank", "uniform")
    assert chosen["kfac"] == ("kfac", "lowrank", "uniform")
    assert chosen["lems"] == ("kfac", "lowrank", "measured")


@pytest.mark.parametrize(
    ("find", "name", "kind", "known"),
    [(find_method, "svd-lm", "method", METHODS), (find_metric, "inputs", "metric", METRICS)],
)
def test_unknown_name_is_refused_with_the_nearest_and_all(find, name: str, kind: str, known: dict) -> None:
    with pytest.raises(UsageError) as caught:
        find(name)
    message = str(caught.value)
    assert message.startswith(
        f"unknown {kind} {name!r}; did you mean {'svd-llm' if kind == 'method' else 'input'}?"
    )
    assert all(other in message for other in known)


def test_name_like_no_other_is_refused_with_all() -> None:
    with pytest.raises(UsageError, match=r"^unknown method 'zzzz'; there are: svd, "):
        find_method("zzzz")


def test_imitation_is_for_what_can_be_trained(tmp_path: Path) -> None:
    data = tmp_path / "data.txt"
    data.write_text("some text")
    options: Any = {"method": "auto", "rank": 2, "data": str(data)}
    corrected = {**options, "structure": "quantized+lowrank"}
    assert making.make_recipe(**options).recovery == "refit+imitation"
    assert making.make_recipe(**corrected).recovery == "refit"
    with pytest.raises(UsageError, match=r"quantized\+lowrank cannot be trained"):
        making.make_recipe(**corrected, recovery="imitation")
