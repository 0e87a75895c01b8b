"""Which parameters learn, and that adapters end up in plain factors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import GPT2, LLAMA, T5, Architecture, outputs, some_inputs
from learners import cut, learn, some_examples

from eckart.recovery import learning
from eckart.recovery.settings import make_training
from eckart.structures import LowRankLinear
from eckart.types import UsageError


@pytest.mark.parametrize(
    ("architecture", "method"),
    [(LLAMA, "lora"), (LLAMA, "dora"), (T5, "ia3"), (LLAMA, "vera"), (LLAMA, "adalora"), (LLAMA, "oft")],
    ids=str,
)
def test_adapters_are_merged_into_the_factors(
    architecture: Architecture, method: str, tmp_path: Path
) -> None:
    model, inputs = cut(architecture), some_inputs(architecture)
    examples = some_examples(model, tmp_path)
    before, dense = outputs(model, inputs), {k: v.clone() for k, v in model.state_dict().items()}
    learned: list[torch.Tensor] = []

    def looking(model: Any, teacher: Any, batch: Any) -> Any:
        from eckart.recovery.objective import cross_entropy

        learned.append(outputs(model, inputs))
        return cross_entropy(model, teacher, batch)

    how = {"train": method, "adapter_rank": 4, "learning_rate": 2e-2, "steps": 4}
    learn(model, examples, tmp_path / "work", objective=looking, **how)
    # What the adapters begin with changes nothing, or next to it (AdaLoRA begins a little off).
    assert torch.allclose(learned[0], before, atol=0.1)
    assert not torch.allclose(outputs(model, inputs), before, atol=1e-3)
    after = model.state_dict()
    assert set(after) == set(dense)
    changed = {name for name in after if not torch.equal(after[name], dense[name])}
    assert changed
    assert all(".U." in name or ".V." in name for name in changed)
    assert type(model.get_submodule(next(iter(changed)).rsplit(".", 2)[0])) is LowRankLinear


def test_merging_keeps_the_values(tmp_path: Path) -> None:
    model, inputs = cut(LLAMA), some_inputs(LLAMA)
    training = make_training(train="lora", adapter_rank=4)
    finish = learning.choose(model, training)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    before = outputs(model, inputs)
    merged = finish()
    assert merged is model
    assert torch.allclose(outputs(model, inputs), before, atol=1e-4)


def test_a_dense_models_targets_take_adapters(tmp_path: Path) -> None:
    model = GPT2.build()
    learning.choose(model, make_training(train="lora"))
    assert any("c_attn.lora_A" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("prefix_tuning", "not put on linear layers"),
        ("lorra", "no such way to train; did you mean lora"),
        ("", "no such way to train"),
    ],
)
def test_what_is_no_method(method: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        learning.require_method(method)


@pytest.mark.parametrize("method", ["road", "lily", "poly", "trainable_tokens"])
def test_what_peft_refuses_is_said_before_the_training(method: str) -> None:
    with pytest.raises(UsageError, match=f"--train {method}: peft refuses this model"):
        learning.choose(cut(LLAMA), make_training(train=method))


def test_without_peft_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(UsageError, match=r'pip install "eckart\[recover\]"'):
        learning.require_method("lora")


def test_a_dense_model_has_no_factors_to_train() -> None:
    with pytest.raises(UsageError, match="no factors to train"):
        learning.choose(LLAMA.build(), make_training())


def test_what_is_saved_is_rounded_and_nothing_else() -> None:
    model = LLAMA.build()
    model.config.dtype = torch.bfloat16
    learning.cast(model, model.config)
    assert model.dtype == torch.bfloat16
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
