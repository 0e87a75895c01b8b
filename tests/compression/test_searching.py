"""Ranks found by measurement keep what they promise on held-out data."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from architectures import BERT, LLAMA, T5
from torch import nn

import eckart
from eckart import allocate
from eckart.compression import loaded
from eckart.compression.course import Course
from eckart.compression.loaded import Loaded
from eckart.data import read_texts
from eckart.estimate import budget
from eckart.evaluation import Moved, Reference
from eckart.model import loading
from eckart.model.text import windows
from eckart.recipes.efforts import EFFORTS
from eckart.recipes.making import make_recipe
from eckart.types import Option


@pytest.fixture
def decaying() -> Any:
    """A Llama whose weights have decaying spectra, each at its own pace, as trained ones have."""
    model = LLAMA.build()
    with torch.no_grad():
        for index, module in enumerate(m for m in model.modules() if isinstance(m, nn.Linear)):
            left, values, right = torch.linalg.svd(module.weight, full_matrices=False)
            shape = torch.arange(1, len(values) + 1) ** -(0.3 + 0.3 * (index % 5))
            module.weight.copy_((left * shape * values[0]) @ right)
    return model


def prepare(model: Any, tokenizer: Any, data: str, **choices: Any) -> Course:
    recipe = make_recipe(**{"method": "auto", "of": "targets", "data": data, **choices})
    course = loaded.prepare(Loaded(model, tokenizer, cache=False), recipe, read_texts(data))
    course.search.reference = course.store.reference()
    return course


def cost(ready: Course, options: Any) -> int:
    return sum(
        ready.bench.prices.cost(site, option) for site, option in zip(ready.bench.sites, options, strict=True)
    )


def candidates(ready: Course) -> dict[str, list[Option]]:
    """The options that `auto` has to try, by the name under which it says so."""
    curves = ready.bench.curves()
    allowed = budget.require_possible(ready.bench.sites, ready.recipe, ready.bench.prices)
    floors = {
        f"waterfill, floor {floor:g}": allocate.waterfill(curves, allowed, floor)
        for floor in EFFORTS["normal"].floors
    }
    picks = {"uniform": allocate.uniform(curves, allowed), **floors}
    return {name: ready.bench.prices.picked(curves, each) for name, each in picks.items()}


@pytest.mark.parametrize("architecture", [LLAMA, T5, BERT], ids=str)
@pytest.mark.parametrize("keep", [0.8, 0.5])
def test_auto_is_never_further_from_dense_than_what_it_tried(architecture, keep, tokenizer, data):
    model = architecture.build()
    dense = copy.deepcopy(model)
    ready = prepare(model, tokenizer, data, keep=keep)
    held_out = ready.cut(ready.recipe, keep_dense=True).held_out
    assert held_out is not None
    assert ready.search.reference is not None
    reference = Reference(ready.search.reference.batches, dense)
    assert held_out.tokens == reference.tokens > 0
    assert held_out.divergence == pytest.approx(reference.of(model).divergence, abs=1e-6)
    ready.bench.restore()
    assert reference.of(model).divergence == pytest.approx(0, abs=1e-6)
    tries = candidates(ready)
    said = {one.name: one.divergence for one in held_out.candidates}
    assert {tuple(tries[name]) for name in said} == set(map(tuple, tries.values()))
    measured = {}
    for name in said:
        with ready.bench.tried(tries[name]):
            measured[name] = reference.of(model).divergence
    assert said == pytest.approx(measured, abs=1e-6)
    assert held_out.divergence <= min(measured.values()) + 1e-6


def test_held_out_windows_are_not_calibrated_on(decaying, tokenizer, data):
    measured, plain = (
        prepare(decaying, tokenizer, data, keep=0.8, allocation=allocation, recovery="none")
        for allocation in ("auto", "uniform")
    )
    assert measured.search.reference is not None
    everything = windows(decaying, tokenizer, read_texts(data), 512)
    assert measured.tokens + measured.search.reference.tokens == sum(len(each.ids) for each in everything)
    assert plain.tokens == measured.tokens
    assert measured.store.divided.chooses
    assert not plain.store.divided.chooses


def test_spectra_are_decomposed_once_for_all_sizes(decaying, tokenizer, data, monkeypatch):
    from eckart import linalg

    calls: list[Any] = []
    many = linalg.decompose_many
    monkeypatch.setattr(linalg, "decompose_many", lambda *a, **k: calls.extend(a[0]) or many(*a, **k))
    ready = prepare(decaying, tokenizer, data, max_loss=0.2, recovery="none")
    ready.cut(ready.recipe, keep_dense=True)
    assert len(calls) == len(ready.bench.targets)


@pytest.fixture(scope="module")
def pocket() -> Any:
    """The built-in model, which is trained: what is cut from it is missed."""
    folder = loading.find_model("pocket")
    return loading.load_model(folder, "cpu", "float32"), loading.load_tokenizer(folder)


def test_smallest_model_is_within_the_loss_and_a_smaller_one_is_not(pocket, monkeypatch):
    monkeypatch.setattr("eckart.compression.search.STEPS", 5)
    chosen = {"recovery": "none", "samples": 24, "allocation": "waterfill"}
    ready = prepare(*pocket, "pocket", max_loss=0.05, **chosen)
    cut = ready.cut(ready.recipe, keep_dense=True)
    assert cut.held_out is not None
    limit = 1.05 * cut.held_out.before
    assert cut.held_out.after <= limit
    size = sum(record.parameters_after for record in cut.records)
    ready.bench.restore()
    assert ready.search.measure(ready.search.under(int(0.9 * size)).options).loss > limit


def test_what_follows_the_cut_counts_where_the_cut_alone_moves_too_far(pocket):
    """As a refit does: here it makes everything good, so the smallest model of all is within the loss."""
    ready = prepare(*pocket, "pocket", max_loss=0.05, recovery="none", samples=16, allocation="uniform")
    asked: list[int] = []

    def made_good(found: Any) -> Moved:
        asked.append(cost(ready, found.options))
        return Moved(0.0, 0.0)

    found = ready.search.smallest(0.05, made_good)
    least, size = allocate.least(ready.bench.costs()), ready.bench.size
    assert cost(ready, found.options) < least + (size - least) / 100
    assert asked
    assert max(asked) < size


def test_loss_that_no_cut_keeps_is_refused(decaying, tokenizer, data):
    ready = prepare(decaying, tokenizer, data, max_loss=1e-12, recovery="none")
    ready.search.reference.before = ready.search.reference.before.__class__(0.0, 0.1)
    with pytest.raises(eckart.UsageError, match="no cut of these targets keeps the loss"):
        ready.cut(ready.recipe)


def test_measured_curves_say_what_a_single_cut_costs(decaying, tokenizer, data):
    ready = prepare(decaying, tokenizer, data, keep=0.6, allocation="measured", recovery="none")
    before = {name: value.clone() for name, value in decaying.state_dict().items()}
    curves = ready.search._measured_curves()
    assert all(torch.equal(value, before[name]) for name, value in decaying.state_dict().items())
    index = 3
    pick = allocate.largest_within(curves[index], 0.5 * curves[index].dense)
    options = [Option(structure="dense")] * len(curves)
    options[index] = curves[index].options[pick - 1]
    assert curves[index].errors[pick] == pytest.approx(ready.search.measure(options).divergence, rel=0.5)


def test_too_little_data_to_hold_some_out_is_said(tokenizer, tmp_path):
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "w1 w2 w3 w4 w5 w6 w7"}\n' * 3)
    ready = prepare(LLAMA.build(), tokenizer, str(few), keep=0.8)
    assert any("too few to hold some out" in note for note in ready.store.notes)
    assert ready.cut(ready.recipe).held_out is not None
