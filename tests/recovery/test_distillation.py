"""Distillation is the teacher's divergence where a loss is, and nothing anywhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, OPT, T5
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from eckart.recovery.distillation import ROWS, Distillation, require_teacher, without_dropout
from eckart.types import EckartError, UsageError

BOTH = [LLAMA, GPT2, T5, BERT]
EVERYTHING = {"temperature": 2.0, "hidden": 0.5}


def batch_for(architecture: Any) -> dict[str, torch.Tensor]:
    """Two windows, the second two tokens shorter; a decoder's first two tokens are its prompt."""
    ids = torch.tensor([[5, 17, 40, 8, 23, 2], [9, 11, 30, 31, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    if architecture.kind == "decoder":
        batch["labels"] = ids.masked_fill(ids == 0, -100).clone()
        batch["labels"][:, :2] = -100
    if architecture.kind == "encoder-decoder":
        written = torch.tensor([[7, 8, 9], [12, 2, 0]])
        batch["decoder_input_ids"] = torch.cat([torch.zeros(2, 1, dtype=torch.long), written[:, :-1]], 1)
        batch["decoder_attention_mask"] = torch.tensor([[1, 1, 1], [1, 1, 0]])
        batch["labels"] = written.masked_fill(written == 0, -100)
    return batch


def config_of(architecture: Any) -> Any:
    """As it would be saved: it says of which class it is."""
    model = architecture.build()
    model.config.architectures = [type(model).__name__]
    return model.config


def filled_otherwise(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same batch with another token for padding."""
    other = dict(batch)
    for name in ("input_ids", "decoder_input_ids"):
        if name in batch:
            other[name] = batch[name].masked_fill(batch[name.replace("input_ids", "attention_mask")] == 0, 50)
    return other


def alone(batch: dict[str, torch.Tensor], window: int) -> dict[str, torch.Tensor]:
    """One window of a batch, with no padding."""
    own = {name: tensor[window : window + 1] for name, tensor in batch.items()}
    cut = {}
    for name, tensor in own.items():
        of_decoder = name.startswith("decoder") or (name == "labels" and "decoder_attention_mask" in own)
        mask = own["decoder_attention_mask" if of_decoder else "attention_mask"]
        cut[name] = tensor[:, : int(mask.sum())]
    return cut


@pytest.mark.parametrize("architecture", BOTH, ids=str)
def test_the_teacher_itself_has_nothing_to_learn(architecture):
    model = architecture.build()
    loss, count = Distillation(**EVERYTHING)(model, architecture.build(), batch_for(architecture))
    assert float(loss.detach()) == pytest.approx(0, abs=1e-5)
    assert count == {"decoder": 6, "encoder-decoder": 5, "encoder": 2}[architecture.kind]


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_logits_are_compared_by_kl_of_completion_tokens(architecture, temperature):
    model, teacher, batch = architecture.build(seed=1), architecture.build(), batch_for(architecture)
    inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
    with torch.no_grad():
        mine, right = (one(**inputs).logits / temperature for one in (model, teacher))
    expected = 0.0
    for window, labels in enumerate(batch["labels"].tolist()):
        for place, label in enumerate(labels):
            if label != -100:
                # A decoder says a token one place before it, an encoder-decoder's is shifted already.
                at = place - (architecture.kind == "decoder")
                before, after = right[window, at].softmax(-1), mine[window, at].softmax(-1)
                expected += temperature**2 * float((before * (before / after).log()).sum())
    loss, _ = Distillation(temperature=temperature)(model, teacher, batch)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("rows", [1, ROWS, 2 * ROWS + 3])
def test_gradient_of_the_divergence_is_what_autograd_makes_of_it(rows, temperature):
    torch.manual_seed(0)
    mine, right = (3 * torch.randn(rows, 50) for _ in range(2))
    given = [mine.clone().requires_grad_() for _ in range(2)]
    counts = torch.arange(0, rows, 2)
    found = Distillation(temperature=temperature)._divergence(given[0], right, counts)
    after, before = ((each[counts] / temperature).log_softmax(-1) for each in (given[1], right))
    expected = temperature**2 * functional.kl_div(after, before, log_target=True, reduction="sum")
    (3 * found).backward()
    (3 * expected).backward()
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(given[0].grad, given[1].grad)


@pytest.mark.parametrize("architecture", [LLAMA, T5], ids=str)
def test_share_of_labels_mixes_in_transformers_own_loss(architecture):
    model, teacher, batch = architecture.build(seed=1), architecture.build(), batch_for(architecture)
    pure, count = Distillation()(model, teacher, batch)
    own = float(model(**batch).loss.detach()) * count
    both, _ = Distillation(labels=0.25)(model, teacher, batch)
    only, _ = Distillation(labels=1.0)(model, teacher, batch)
    assert float(only.detach()) == pytest.approx(own, rel=1e-5)
    assert float(both.detach()) == pytest.approx(0.75 * float(pure.detach()) + 0.25 * own, rel=1e-5)


def test_encoder_learns_embeddings_and_every_layers_tokens():
    model, teacher, batch = BERT.build(seed=1), BERT.build(), batch_for(BERT)
    expected, strayed = 0.0, 0.0
    with torch.no_grad():
        for window in (alone(batch, 0), alone(batch, 1)):
            mine, right = (one(**window, output_hidden_states=True) for one in (model, teacher))
            one, other = (output.last_hidden_state.mean(1) for output in (mine, right))
            expected += float((one / one.norm() - other / other.norm()).square().sum())
            for layer in range(1, len(right.hidden_states)):
                own, its = mine.hidden_states[layer][0], right.hidden_states[layer][0]
                relative = (own - its).norm(dim=-1) ** 2 / its.norm(dim=-1) ** 2
                strayed += float(relative.mean()) / (len(right.hidden_states) - 1)
    loss, count = Distillation(hidden=0.0)(model, teacher, batch)
    assert (float(loss.detach()), count) == (pytest.approx(expected, rel=1e-4), 2)
    loss, _ = Distillation(hidden=0.3)(model, teacher, batch)
    assert float(loss.detach()) == pytest.approx(expected + 0.3 * strayed, rel=1e-4)


@pytest.mark.parametrize("architecture", BOTH, ids=str)
def test_padding_never_counts_and_windows_only_add_up(architecture):
    model, teacher, batch = architecture.build(seed=1), architecture.build(), batch_for(architecture)
    objective = Distillation(**EVERYTHING)
    loss, count = objective(model, teacher, batch)
    other, _ = objective(model, teacher, filled_otherwise(batch))
    pieces = [objective(model, teacher, alone(batch, window)) for window in (0, 1)]
    assert float(other.detach()) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert sum(float(piece.detach()) for piece, _ in pieces) == pytest.approx(float(loss.detach()), rel=1e-4)
    assert sum(number for _, number in pieces) == count


def test_hidden_states_of_layers_that_the_teacher_lacks_are_compared_at_the_end():
    model, teacher = LLAMA.build(seed=1), LLAMA.build()
    teacher.model.layers = teacher.model.layers[:1]
    batch = batch_for(LLAMA)
    with torch.no_grad():
        mine, right = (
            one.model(batch["input_ids"], batch["attention_mask"]).last_hidden_state
            for one in (model, teacher)
        )
    counts = torch.zeros_like(batch["labels"], dtype=torch.bool)
    counts[:, :-1] = batch["labels"][:, 1:] != -100
    expected = ((mine - right).square().sum(-1) / right.square().sum(-1))[counts].sum()
    without, _ = Distillation()(model, teacher, batch)
    loss, _ = Distillation(hidden=1.0)(model, teacher, batch)
    assert float((loss - without).detach()) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("classes", [1, 3])
def test_classifiers_answer_for_windows(classes):
    def build(seed: int) -> Any:
        torch.manual_seed(seed)
        sizes = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        return BertForSequenceClassification(
            BertConfig(**sizes, intermediate_size=80, num_labels=classes)
        ).eval()

    model, teacher, batch = build(1), build(0), batch_for(BERT)
    with torch.no_grad():
        mine, right = model(**batch).logits, teacher(**batch).logits
    kl = (right.softmax(-1) * (right.log_softmax(-1) - mine.log_softmax(-1))).sum()
    expected = kl if classes > 1 else (mine - right).square().sum() / 2
    loss, count = Distillation(hidden=0.0)(model, teacher, batch)
    assert (float(loss.detach()), count) == (pytest.approx(float(expected), rel=1e-4), 2)


def test_model_that_fills_gaps_answers_for_each_real_token():
    sizes = {"vocab_size": 96, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model, teacher = (BertForMaskedLM(BertConfig(**sizes, intermediate_size=80)).eval() for _ in range(2))
    batch = batch_for(BERT)
    loss, count = Distillation(hidden=0.0)(model, teacher, batch)
    with torch.no_grad():
        mine, right = (one(**batch).logits[batch["attention_mask"] == 1] for one in (model, teacher))
    expected = (right.softmax(-1) * (right.log_softmax(-1) - mine.log_softmax(-1))).sum()
    assert (float(loss.detach()), count) == (pytest.approx(float(expected), rel=1e-4), 10)


def test_only_the_model_learns_and_the_teacher_does_not_drop_out():
    model, teacher = BERT.build(seed=1), BERT.build()
    teacher.train()
    loss, _ = Distillation()(model, teacher, batch_for(BERT))
    loss.backward()
    assert not teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("architecture", [BERT, GPT2, T5, OPT], ids=str)
def test_model_reads_without_gaps_while_dropout_is_off(architecture):
    model = architecture.build().train()
    rates = [(m.p, getattr(m, "dropout", 0)) for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    batch = {name: tensor for name, tensor in batch_for(architecture).items() if name != "labels"}
    with torch.no_grad():
        gaps = [model(**batch)[0] for _ in range(2)]
        with without_dropout(model):
            whole = [model(**batch)[0] for _ in range(2)]
        expected = model.eval()(**batch)[0]
    assert not torch.equal(*gaps)
    assert torch.equal(*whole)
    assert torch.equal(whole[0], expected)
    assert rates == [
        (m.p, getattr(m, "dropout", 0)) for m in model.modules() if isinstance(m, torch.nn.Dropout)
    ]


def test_labels_need_some():
    with pytest.raises(EckartError, match="no labels"):
        Distillation(labels=0.5)(BERT.build(), BERT.build(), batch_for(BERT))


def test_answers_of_another_shape_are_refused():
    teacher = BertForMaskedLM(BERT.build().config)
    with pytest.raises(EckartError, match=r"teacher's logits are \(2, 6, 96\) where the model's are none"):
        Distillation()(BERT.build(), teacher, batch_for(BERT))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("temperature", float("nan")),
        ("labels", 1.1),
        ("labels", -0.1),
        ("hidden", -1.0),
    ],
)
def test_values_out_of_range(option, value):
    with pytest.raises(UsageError, match=f"--{option}"):
        Distillation(**{option: value})


def test_teacher_of_another_vocabulary_is_refused():
    config, teacher = config_of(LLAMA), config_of(LLAMA)
    teacher.vocab_size = 32000
    with pytest.raises(UsageError, match=r"vocabulary has 32,000 tokens and the model's 96"):
        require_teacher(config, teacher)


def test_teacher_of_another_kind_is_refused():
    with pytest.raises(UsageError, match="the teacher is a decoder and the model an encoder:"):
        require_teacher(config_of(BERT), config_of(LLAMA))


def test_teacher_of_another_width_is_refused_where_hidden_states_are_compared():
    for architecture in (LLAMA, BERT):
        config, teacher = config_of(architecture), config_of(architecture)
        teacher.hidden_size = 64
        with pytest.raises(UsageError, match="64 wide and the model's 48"):
            require_teacher(config, teacher, hidden=1.0)
    require_teacher(config_of(LLAMA), config_of(LLAMA), hidden=1.0)
    config = config_of(LLAMA)
    config.hidden_size = 64
    require_teacher(config_of(LLAMA), config)
