"""A cut model that learns from the dense one's kept answers comes nearer to it, and nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import BERT, GEMMA3, GPT2, LLAMA, T5, outputs, some_inputs

from eckart.compression import imitation
from eckart.compression.course import WORSE, Course
from eckart.compression.imitation import Answers, Imitation, UnknownHeadError
from eckart.compression.loaded import Loaded, prepare
from eckart.data import read_texts
from eckart.evaluation import Reference
from eckart.model import replacing, text
from eckart.recipes.making import make_recipe
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
    assert learned.settings(ready.bench.model).tokens == imitation.imitated_tokens(learned.tokens)
    assert learned.tokens < imitation.imitated_tokens(learned.tokens) <= 8 * learned.tokens


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
