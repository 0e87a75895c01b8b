"""A refit follows the dense model from what the compressed one hands on, and costs no parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, LLAMA, T5, outputs, some_inputs

from eckart.compression.course import Course
from eckart.compression.loaded import Loaded, prepare
from eckart.compression.refit import refit
from eckart.data import read_texts
from eckart.model import replacing
from eckart.recipes.making import make_recipe
from eckart.types import Option


def prepared(architecture: Any, tokenizer: Any, data: str, model: Any = None, **choices: Any) -> Course:
    model = model or architecture.build()
    asked = {"method": "auto", "recovery": "refit", "keep": 0.6, "of": "targets", "data": data, **choices}
    recipe = make_recipe(**asked)
    return prepare(Loaded(model, tokenizer, cache=False), recipe, read_texts(data))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_every_architecture_is_refitted_within_its_budget_and_made_dense_again(architecture, tokenizer, data):
    model = architecture.build()
    inputs = some_inputs(architecture)
    before, size = outputs(model, inputs), replacing.count_parameters(model)
    ready = prepared(architecture, tokenizer, data, model, allocation="uniform")
    cut = ready.cut(ready.recipe, keep_dense=True)
    assert not [note for note in cut.notes if "refitted" in note]
    assert torch.isfinite(outputs(model, inputs)).all()
    left = replacing.count_parameters(model) - (size - ready.bench.size)
    assert left == sum(record.parameters_after for record in cut.records)
    assert 0.95 * 0.6 * ready.bench.size < left <= 0.6 * ready.bench.size
    ready.bench.restore()
    assert torch.equal(outputs(model, inputs), before)


def test_what_reads_the_dense_models_own_input_is_cut_as_without_a_refit(tokenizer, data):
    name = "model.layers.0.self_attn.q_proj"
    weights = []
    for recovery in ("none", "refit"):
        # Both decompose in the moments of the same tokens: there are few enough to fit on all.
        ready = prepared(LLAMA, tokenizer, data, allocation="uniform", recovery=recovery)
        ready.cut(ready.recipe)
        module = ready.bench.model.get_submodule(name)
        weights.append(replacing.dense_of(module)[0])
    torch.testing.assert_close(weights[0], weights[1], rtol=0.02, atol=0.02)


def test_fit_of_the_outputs_is_closer_than_without(tokenizer, data):
    """What the last block writes is nearer to the dense model's on the data that was fitted on."""
    distances = []
    for recovery in ("none", "refit"):
        ready = prepared(LLAMA, tokenizer, data, allocation="uniform", metric="input", recovery=recovery)
        given = ready.store.batches_to_fit()
        with torch.no_grad():
            dense = [LLAMA.build().model(**batch).last_hidden_state for batch in given]
            ready.cut(ready.recipe)
            cut = [ready.bench.model.model(**batch).last_hidden_state for batch in given]
        masks = [batch["attention_mask"].bool() for batch in given]
        rows = [(one[m] - other[m]).square().sum() for one, other, m in zip(dense, cut, masks, strict=True)]
        distances.append(float(sum(rows)))
    assert distances[1] < 0.8 * distances[0]


def test_targets_that_stay_dense_are_refitted_too(tokenizer, data):
    ready = prepared(
        LLAMA, tokenizer, data, allocation="uniform", targets=["layers.0.mlp.down_proj", "o_proj"]
    )
    last = "model.layers.1.self_attn.o_proj"
    before = ready.bench.weight(last).clone()
    low, dense = Option(structure=ready.recipe.structure, size=4), Option(structure="dense")
    options = {site.name: low if "down_proj" in site.name else dense for site in ready.bench.sites}
    ready.store.observe(ready.bench, None)
    refit(ready.bench, options, ready.store.batches_to_fit(), keep_dense=True)
    record = next(record for record in ready.store.records(ready.bench) if record.name == last)
    assert record.structure == "dense"
    assert record.parameters_after == record.parameters_before
    now = ready.bench.model.get_submodule(last).weight
    assert not torch.equal(now, before)
    ready.bench.restore()
    assert torch.equal(ready.bench.model.get_submodule(last).weight, before)


def test_both_stacks_of_an_encoder_decoder_are_walked(tokenizer, data):
    ready = prepared(T5, tokenizer, data, allocation="uniform")
    cut = ready.cut(ready.recipe)
    plain = prepared(T5, tokenizer, data, allocation="uniform", recovery="none")
    plain.cut(plain.recipe)
    changed = {
        record.name.split(".")[0]
        for record in cut.records
        if not torch.equal(
            ready.bench.model.get_submodule(record.name).V.weight,
            plain.bench.model.get_submodule(record.name).V.weight,
        )
    }
    assert changed == {"encoder", "decoder"}
