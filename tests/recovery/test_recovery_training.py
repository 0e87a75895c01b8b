"""The loop: what it learns, that sharing a step out changes nothing, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, QWEN3, T5, Architecture
from learners import closest, cut, learn, some_examples, still

from eckart.recovery.training import LOG
from eckart.types import EckartError


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("architecture", [LLAMA, GPT2, T5, QWEN3], ids=str)
def test_the_loss_falls_and_only_factors_learn(architecture: Architecture, tmp_path: Path) -> None:
    train = "all" if architecture is GPT2 else "factors"  # GPT-2's layers are no `nn.Linear`
    model = cut(architecture)
    examples = some_examples(model, tmp_path)
    before, cached = weights(model), model.config.use_cache
    trained = learn(model, examples, tmp_path / "work", steps=24, train=train)
    losses = [loss for _, loss in trained.losses]
    assert sum(losses[-4:]) < sum(losses[:4]) - 0.5
    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    if train == "factors":
        assert changed == {name for name in before if ".U." in name or ".V." in name}
    assert not model.training
    assert model.config.use_cache == cached
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    lines = [json.loads(line) for line in (tmp_path / "work" / LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert trained.tokens == lines[-1]["tokens"] > lines[0]["tokens"] > 0
    assert {"loss", "lr", "seconds"} < set(lines[0])


@pytest.mark.parametrize(
    ("architecture", "how"),
    [
        (LLAMA, {"accumulate": 4}),
        (LLAMA, {"accumulate": 2, "gradient_checkpointing": True}),
        (T5, {"accumulate": 4}),
    ],
    ids=str,
)
def test_how_a_step_is_computed_changes_nothing(
    architecture: Architecture, how: dict[str, Any], tmp_path: Path
) -> None:
    """Windows differ in how many tokens they have: a mean of means would show."""
    model = cut(architecture)
    examples = some_examples(model, tmp_path)
    plain = learn(model, examples, tmp_path / "plain")
    other = learn(cut(architecture), examples, tmp_path / "other", **how)
    assert closest(plain, other) < 1e-5


def test_bf16_computes_nearly_the_same(tmp_path: Path) -> None:
    model, other = cut(LLAMA), cut(LLAMA)
    examples = some_examples(model, tmp_path)
    plain = learn(model, examples, tmp_path / "plain")
    rounded = learn(other, examples, tmp_path / "other", precision="bf16")
    assert 0 < closest(plain, rounded) < 0.05
    # Autocast is gone again.
    assert other(input_ids=torch.tensor([[5, 6]])).logits.dtype == torch.float32
    assert "forward" not in vars(other)


def test_an_objective_and_parameter_groups_of_ones_own(tmp_path: Path) -> None:
    """What distillation and basis selection are made of."""
    model, teacher = still(BERT.build()), still(BERT.build(seed=5))
    frozen = weights(teacher)
    examples = some_examples(model, tmp_path)

    def imitate(model: Any, teacher: Any, batch: Any) -> tuple[torch.Tensor, int]:
        with torch.no_grad():
            wanted = teacher(**batch)[0]
        return (model(**batch)[0] - wanted).square().sum(), int(batch["attention_mask"].sum())

    def groups(model: Any) -> list[dict[str, Any]]:
        return [{"params": [model.embeddings.word_embeddings.weight], "lr": 1e-30}]

    before = weights(model)
    trained = learn(
        model,
        examples,
        tmp_path / "work",
        train="all",
        teacher=teacher,
        objective=imitate,
        parameter_groups=groups,
        steps=12,
    )
    assert trained.losses[-1][1] < 0.8 * trained.losses[0][1]
    after = weights(model)
    name = "embeddings.word_embeddings.weight"
    assert torch.allclose(before[name], after[name], atol=1e-12)
    assert not torch.equal(before[name.replace("word", "position")], after[name.replace("word", "position")])
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in teacher.state_dict().items())


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path: Path) -> None:
    model = cut(LLAMA)
    examples = some_examples(model, tmp_path)
    calls = []

    def breaks(model: Any, teacher: Any, batch: Any) -> tuple[torch.Tensor, int]:
        calls.append(1)
        return model(input_ids=batch["input_ids"]).logits.sum() * (float("nan") if len(calls) == 6 else 1), 1

    with pytest.raises(EckartError, match=r"the loss is not finite at step 6; the last good .*checkpoint-4"):
        learn(model, examples, tmp_path / "work", objective=breaks, save_every=2)
    assert sorted(path.name for path in (tmp_path / "work").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-4",
    ]
    assert len((tmp_path / "work" / LOG).read_text().splitlines()) == 5


def test_a_gradient_that_is_not_finite_stops_too(tmp_path: Path) -> None:
    model = cut(LLAMA)

    def breaks(model: Any, teacher: Any, batch: Any) -> tuple[torch.Tensor, int]:
        # The square root's slope at 0 is infinite.
        return (model(input_ids=batch["input_ids"]).logits.sum() * 0).sqrt(), 1

    with pytest.raises(EckartError, match="the gradient is not finite at step 1; there is no checkpoint"):
        learn(model, some_examples(model, tmp_path), tmp_path / "work", objective=breaks)
