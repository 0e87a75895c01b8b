"""What the losses say: transformers' own loss for true labels, the exact curvature for sampled ones."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from architectures import ARCHITECTURES, BERT, GPT2, LLAMA, T5, VOCABULARY, WIDTH
from watching import BACKWARD, alone, cut_for, relative, targets_of

from eckart.calibrate import watch
from eckart.calibrate.losses import loss_for, softened, true_labels
from eckart.model.text import batches
from eckart.types import EckartError

DECODERS = [row for row in ARCHITECTURES if row.kind == "decoder"]
IDS = {"input_ids": torch.tensor([[5, 17, 40, 8, 23]])}


def run(model: Any, batch: dict[str, Any]) -> Any:
    return model(**{key: value for key, value in batch.items() if key != "labels"})


# Labels of the data


@pytest.mark.parametrize("architecture", [*DECODERS, T5], ids=str)
@torch.no_grad()
def test_true_labels_are_those_of_transformers_own_loss(architecture, tokenizer, data):
    model, loss = architecture.build(), true_labels()
    cut = cut_for(model, tokenizer, data)[:5]
    total = torch.zeros(())
    for batch in alone(model, tokenizer, cut):
        labels = batch.get("labels", batch["input_ids"])
        own = model(**{**batch, "labels": labels}).loss
        asked = labels.numel() - ("labels" not in batch)
        assert loss(run(model, batch), batch) / asked == pytest.approx(float(own), rel=1e-5)
        total += loss(run(model, batch), batch)
    padded = sum(loss(run(model, batch), batch) for batch in batches(model, tokenizer, cut))
    assert padded == pytest.approx(float(total), rel=1e-5)


@torch.no_grad()
def test_padding_on_the_left_asks_nothing_either():
    model, loss = LLAMA.build(), true_labels()
    left = {"input_ids": torch.tensor([[0, 0, 5, 6, 7]]), "attention_mask": torch.tensor([[0, 0, 1, 1, 1]])}
    output = model(**left)
    expected = torch.nn.functional.cross_entropy(output.logits[0, 2:4], torch.tensor([6, 7]), reduction="sum")
    assert loss(output, left) == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_what_has_no_labels_is_refused():
    with pytest.raises(EckartError, match="no logits"):
        true_labels()(BERT.build()(**IDS), IDS)
    batch = {**IDS, "decoder_input_ids": IDS["input_ids"]}
    with pytest.raises(EckartError, match="no labels"):
        true_labels()(T5.build()(**batch), batch)
    with pytest.raises(EckartError, match="neither logits nor a last hidden state"):
        softened()(SimpleNamespace(scores=1), IDS)


def test_a_choice_is_one_of_two():
    output, batch = LLAMA.build()(**IDS), IDS
    assert torch.equal(loss_for("data")(output, batch), true_labels()(output, batch))
    assert torch.equal(loss_for("sampled", 2.0, 5)(output, batch), softened(2.0, 5)(output, batch))
    with pytest.raises(ValueError, match="guessed"):
        loss_for("guessed")
    with pytest.raises(ValueError, match="above 0"):
        softened(0.0)


# Labels of the model: in expectation, the exact curvature


def jacobian(model: Any, name: str, batch: dict[str, Any], answer: Any) -> torch.Tensor:
    """Of `answer(output)` with respect to the output of one module, `(answers…, tokens, out)`."""
    added: list[Any] = []
    hook = model.get_submodule(name).register_forward_hook(lambda module, arguments, y: y + added[-1])
    width = model.get_submodule(name).weight.shape[0]

    def shifted(zero: torch.Tensor) -> torch.Tensor:
        added.append(zero)
        return answer(run(model, batch))

    zero = torch.zeros(*batch["input_ids"].shape, width, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(shifted, zero, vectorize=True)
    hook.remove()
    return found.squeeze(-3)


def assert_expected(
    model: Any, name: str, batch: dict[str, Any], answer: Any, curvature: Any, temperature: float = 1.0
) -> None:
    """`Σ g gᵀ`, averaged over seeds, is `Jᵀ H J` within the error that the draws themselves have.

    Args:
        answer: what of the model's output the loss sees, differentiated once; the draws differ in what
            they say to it.
        curvature: of the answers' distance, `H (answers…, answers…)`.
    """
    output = run(model, batch)
    told = [key for key in ("logits", "last_hidden_state") if key in output]
    answers = output[told[0]].detach().requires_grad_()
    J = jacobian(model, name, batch, lambda output: output[told[0]])
    J = J.reshape(answers.numel(), -1, J.shape[-1])
    seen = []
    for seed in range(DRAWS):
        answers.grad = None
        softened(temperature, seed)(SimpleNamespace(**{told[0]: answers}), batch).backward()
        g = torch.tensordot(answers.grad.flatten(), J, 1)
        seen.append(g.T @ g)
    watched = watch(model, [name], [batch], BACKWARD, loss=softened(temperature, 0))
    assert relative(watched.gradients[name].second, seen[0]) < 1e-5
    S = torch.autograd.functional.jacobian(answer, answers.detach()).reshape(-1, answers.numel())
    SJ = torch.tensordot(S, J, 1)
    exact = torch.einsum("asi,ab,bsj->ij", SJ, curvature, SJ)
    drawn = torch.stack(seen)
    off = (drawn.mean(0) - exact) / (drawn.std(0) / DRAWS**0.5)
    # Of some hundred entries the farthest is 3 to 4 errors away.
    assert off.abs().max() < 5
    # And it is measured well enough to tell it from anything else.
    assert relative(drawn.mean(0), exact) < 0.2


DRAWS = 1500


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sampled_labels_give_the_fisher_of_the_softened_distribution(temperature):
    model = LLAMA.build(torch.float64)
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
        p = (model(**IDS).logits[0] / temperature).softmax(-1)
    H = torch.block_diag(*(torch.diag_embed(p) - p[:, :, None] * p[:, None, :]))
    name = "model.layers.1.self_attn.k_proj"
    assert_expected(model, name, IDS, lambda logits: logits / temperature, H, temperature)


def test_probes_of_an_encoder_give_the_gauss_newton_matrix_of_its_embedding():
    def embedding(hidden: torch.Tensor) -> torch.Tensor:
        mean = hidden[0].mean(0)
        return mean / mean.norm()

    name = "encoder.layer.1.attention.self.value"
    H = torch.eye(WIDTH).double()
    assert_expected(BERT.build(torch.float64), name, IDS, embedding, H)


@pytest.mark.parametrize("labels", [1, 3])
def test_a_classifier_is_asked_once_a_window(labels):
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=WIDTH,
        num_labels=labels,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(config).double().eval()
    p = model(**IDS).logits[0].softmax(-1).detach()
    H = torch.diag(p) - torch.outer(p, p) if labels > 1 else torch.ones(1, 1).double()
    assert_expected(model, "bert.encoder.layer.0.output.dense", IDS, lambda logits: logits, H)


# What is drawn


def test_what_is_drawn_depends_on_the_seed_and_the_window_alone(tokenizer, data):
    model = GPT2.build(torch.float64)
    cut = cut_for(model, tokenizer, data)[:8]
    names = targets_of(model)[-1:]

    def seen(made: Any, seed: int) -> torch.Tensor:
        return watch(model, names, made, BACKWARD, loss=softened(seed=seed)).gradients[names[0]].second

    torch.manual_seed(1)
    one = seen(batches(model, tokenizer, cut), 0)
    torch.manual_seed(2)
    assert relative(seen(alone(model, tokenizer, cut[::-1]), 0), one) < 1e-12
    assert relative(seen(batches(model, tokenizer, cut), 1), one) > 1e-2


@torch.no_grad()
def test_positions_and_windows_are_drawn_independently():
    """Where every position has the same distribution, their labels differ; equal windows' do not."""
    ids = torch.arange(4, 68).reshape(2, 32)
    logits = torch.zeros(2, 32, 50, dtype=torch.float64, requires_grad=True)
    with torch.enable_grad():
        softened()(SimpleNamespace(logits=logits), {"input_ids": ids}).backward()
    labels = logits.grad.argmin(-1)
    assert len(set(labels[0].tolist())) > 15
    assert (labels[0] == labels[1]).float().mean() < 0.2


@torch.no_grad()
def test_what_has_no_probability_is_never_drawn():
    logits = torch.full((1, 500, 40), -torch.inf, dtype=torch.float32)
    logits[..., 7] = 0.0
    logits[..., 21] = 0.0
    loss = softened()(SimpleNamespace(logits=logits), {"input_ids": torch.arange(500)[None]})
    assert float(loss) == pytest.approx(500 * math.log(2), rel=1e-4)


def test_padding_is_asked_nothing():
    ids = torch.arange(4, 16).reshape(2, 6)
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2])}
    logits = torch.zeros(2, 6, 50, requires_grad=True)
    softened()(SimpleNamespace(logits=logits), batch).backward()
    assert torch.equal(logits.grad.abs().sum(-1) > 0, batch["attention_mask"].bool())
    hidden = torch.randn(2, 6, 50, requires_grad=True)
    softened()(SimpleNamespace(last_hidden_state=hidden), batch).backward()
    assert torch.equal(hidden.grad.abs().sum(-1) > 0, batch["attention_mask"].bool())
