"""A cut model that learns from the dense one's kept answers comes nearer to it, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from architectures import BERT, GEMMA3, GPT2, LLAMA, T5, outputs, some_inputs

from eckart.compression.course import WORSE, Course
from eckart.compression.imitation import UNTRAINED, Answers, Imitation, UnknownHeadError, training
from eckart.compression.loaded import Loaded, prepare
from eckart.data import read_texts
from eckart.evaluation import Reference
from eckart.model import replacing, text
from eckart.recipes.efforts import EFFORTS
from eckart.recipes.making import make_recipe
from eckart.recovery import learning
from eckart.recovery.distillation import Distillation
from eckart.recovery.windows import Collator
from eckart.structures import StructuredLinear
from eckart.types import silent

KINDS = [LLAMA, GPT2, GEMMA3, T5, BERT]


def prepared(architecture: Any, tokenizer: Any, data: str, model: Any = None, **choices: Any) -> Course:
    recipe = make_recipe(
        **{
            "method": "svd-llm",
            "keep": 0.5,
            "of": "targets",
            "data": data,
            "recovery": "imitation",
            **choices,
        }
    )
    loaded = Loaded(model or architecture.build(), tokenizer, cache=False)
    return prepare(loaded, recipe, read_texts(data))


@pytest.mark.parametrize("architecture", KINDS, ids=str)
def test_answers_are_those_of_the_dense_model(architecture, tokenizer, data):
    ready = prepared(architecture, tokenizer, data)
    model, divided = ready.bench.model, ready.store.divided
    answers = Answers(model, tokenizer, divided.calibrating)
    answers.ask(silent)
    for batch in text.batches(model, tokenizer, divided.calibrating, 100):
        with torch.no_grad():
            said, kept = model(**batch), answers(**batch)
        part = "logits" if model.can_generate() else "last_hidden_state"
        mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
        torch.testing.assert_close(getattr(kept, part)[mask], getattr(said, part)[mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("architecture", KINDS, ids=str)
def test_a_model_comes_nearer_to_the_dense_one_and_is_dense_again_afterwards(architecture, tokenizer, data):
    model, inputs = architecture.build(), some_inputs(architecture)
    learns = [each.requires_grad for each in model.parameters()]
    ready = prepared(architecture, tokenizer, data, model)
    dense, reference = outputs(model, inputs), Reference(ready.store.divided.fitting(), model)
    distances = []
    for recovery in ("none", "imitation"):
        ready.cut(ready.recipe.model_copy(update={"recovery": recovery}), keep_dense=True)
        distances.append(ready.store.moved(reference).divergence)
        assert not model.training
        ready.bench.restore()
    assert distances[1] < distances[0]
    assert torch.equal(outputs(model, inputs), dense)
    assert [each.requires_grad for each in model.parameters()] == learns
    assert all(each.grad is None for each in model.parameters())


def test_weights_keep_their_dtype_and_what_is_not_cut_its_values(tokenizer, data):
    model = LLAMA.build(torch.bfloat16)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    ready = prepared(LLAMA, tokenizer, data, model)
    ready.cut(ready.recipe)
    after = model.state_dict()
    assert {each.dtype for each in after.values() if each.is_floating_point()} == {torch.bfloat16}
    same = set(before) & set(after)
    assert len(same) > 3
    assert all(torch.equal(before[name], after[name]) for name in same)


def test_what_moves_the_model_further_is_taken_back(tokenizer, data, monkeypatch):
    monkeypatch.setattr(Imitation, "rate", lambda *given: 0.3)
    weights = []
    for recovery in ("none", "imitation"):
        ready = prepared(LLAMA, tokenizer, data, method="auto", recovery=recovery)
        cut = ready.cut(ready.recipe)
        weights.append(ready.bench.model.state_dict())
    assert WORSE in cut.notes
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_training_that_comes_to_nothing_leaves_the_cut(tokenizer, data, monkeypatch):
    monkeypatch.setattr(Imitation, "rate", lambda *given: 1e30)
    weights = []
    for recovery in ("none", "imitation"):
        ready = prepared(LLAMA, tokenizer, data, recovery=recovery)
        cut = ready.cut(ready.recipe)
        weights.append(ready.bench.model.state_dict())
    assert any(note.startswith(UNTRAINED) and "not finite" in note for note in cut.notes)
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_rate_is_the_largest_whose_first_step_does_not_hurt(tokenizer, data):
    ready = prepared(LLAMA, tokenizer, data)
    learned = ready.store.imitation()
    ready.cut(ready.recipe.model_copy(update={"recovery": "none"}))
    model, objective = ready.bench.model, Distillation()
    learning.choose(model, learned.settings(model))
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    rate = learned.rate(model, len(learned.examples))
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())
    assert all(each.grad is None for each in model.parameters())
    batch = Collator(model, text.padding_id(tokenizer))(learned.examples)
    loss, _ = objective(model, learned.answers, batch)
    loss.backward()
    signs = {name: each.grad.sign() for name, each in model.named_parameters() if each.grad is not None}
    moved = {}
    for step in (rate, 2 * rate):
        with torch.no_grad():
            for name, sign in signs.items():
                model.get_parameter(name).copy_(before[name] - step * sign)
            moved[step] = float(objective(model, learned.answers, batch)[0])
    assert moved[rate] <= float(loss.detach())
    assert rate == training.MOST_RATE or moved[2 * rate] > float(loss.detach())


def test_what_is_learned_survives_rounding(tokenizer, data):
    model = LLAMA.build(torch.bfloat16)
    weight = model.model.layers[0].mlp.up_proj.weight
    model.requires_grad_(False)
    with training.in_float32(model):
        weight.requires_grad_(True)
        before = weight.detach().clone()
        with torch.no_grad():
            weight.mul_(1 + 2**-11)
    assert weight.dtype == torch.bfloat16
    assert not weight.requires_grad
    grown = float(weight.float().abs().sum() / before.abs().sum()) - 1
    assert grown == pytest.approx(2**-11, rel=0.3)


@pytest.mark.parametrize("method", ["svd-llm", "kfac"])
@pytest.mark.parametrize("architecture", [LLAMA, GPT2, BERT], ids=str)
def test_answers_are_heard_while_it_is_calibrated_on(architecture, method, tokenizer, data):
    answers = prepared(architecture, tokenizer, data, method=method).store._imitation.answers
    assert set(answers.said) == set(answers._windows)


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=str)
def test_of_long_windows_the_beginnings_are_learned_from(architecture, tokenizer, data, monkeypatch):
    monkeypatch.setattr(training, "STEP_TOKENS", 8)
    windows = prepared(architecture, tokenizer, data).store.divided.calibrating
    tokens = sum(len(window.ids) for window in windows)

    def learning_from(most: int) -> Course:
        monkeypatch.setitem(EFFORTS, "normal", replace(EFFORTS["normal"], imitated_tokens=most))
        return prepared(architecture, tokenizer, data)

    twice, ready = learning_from(2 * tokens), learning_from(2 * tokens - 1)
    rows = {
        at: [list(each.ids) for each in course.store._imitation.examples]
        for at, course in enumerate((twice, ready))
    }
    assert rows == {0: [each.ids for each in windows], 1: [each.ids[:8] for each in windows]}
    # What was heard of whole windows is what the model says to their beginnings.
    heard = ready.store._imitation.answers
    asked = Answers(ready.bench.model, tokenizer, ready.store.divided.imitated(8))
    asked.ask(silent)
    assert heard.said.keys() == asked.said.keys()
    for key, said in asked.said.items():
        torch.testing.assert_close(heard.said[key], said, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("structure", ["lowrank", "pivoted", "kronecker"])
def test_of_factors_what_makes_the_outputs_learns(structure, tokenizer, data):
    ready = prepared(LLAMA, tokenizer, data, structure=structure, recovery="none")
    ready.cut(ready.recipe)
    learning.choose_outputs(ready.bench.model)
    names = {name for name, each in ready.bench.model.named_parameters() if each.requires_grad}
    cut = {
        f"{name}.{inner}"
        for name, module in ready.bench.model.named_modules()
        if isinstance(module, StructuredLinear)
        for inner, _ in module.named_parameters()
    }
    assert names
    assert names == {each for each in cut if ".V." not in each}


def test_a_head_that_does_more_is_noticed_and_said(tokenizer, data, monkeypatch):
    model = LLAMA.build()
    whole = model.forward

    def scaled(*given: Any, **named: Any) -> Any:
        output = whole(*given, **named)
        output.logits = output.logits * 0.5
        return output

    monkeypatch.setattr(model, "forward", scaled)
    ready = prepared(LLAMA, tokenizer, data, model)
    with pytest.raises(UnknownHeadError):
        Imitation.of(model, ready.store.divided)
    ready.cut(ready.recipe)
    assert any("not trained to imitate" in note for note in ready.store.notes)


def test_few_windows_are_learned_from_a_few_times_alone(tokenizer, data):
    ready = prepared(LLAMA, tokenizer, data)
    learned = Imitation.of(ready.bench.model, ready.store.divided)
    assert learned.settings(ready.bench.model).tokens == training.imitated_tokens(
        learned.tokens, learned.effort
    )
    assert learned.tokens < training.imitated_tokens(learned.tokens, learned.effort) <= 8 * learned.tokens


def test_a_refit_comes_before_it_where_both_are_asked_for(tokenizer, data):
    notes = {}
    for recovery in ("refit", "imitation", "refit+imitation"):
        ready = prepared(LLAMA, tokenizer, data, recovery=recovery)
        cut = ready.cut(ready.recipe)
        notes[recovery] = any("trained to imitate" in note for note in cut.notes)
        name = "model.layers.0.mlp.down_proj"
        notes[recovery, "weight"] = replacing.dense_of(ready.bench.model.get_submodule(name))[0]
    assert [notes[each] for each in ("refit", "imitation", "refit+imitation")] == [False, True, True]
    apart = [
        float((notes[one, "weight"] - notes[other, "weight"]).norm())
        for one, other in (("refit", "refit+imitation"), ("imitation", "refit+imitation"))
    ]
    assert min(apart) > 0
