"""Gradients at the targets' outputs are those of autograd, each real token once, whatever the batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, BERT, GPT2, LLAMA, MIXTRAL, T5
from torch import nn
from watching import ALL, BACKWARD, alone, brute_force, cut_for, relative, targets_of

from eckart.calibrate import PaddingUnknownError, merge, watch
from eckart.calibrate.losses import softened, true_labels
from eckart.model.text import batches
from eckart.types import EckartError

IDS = {"input_ids": torch.arange(4, 16).reshape(2, 6)}


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_moments_of_gradients_are_those_of_autograd_window_by_window(architecture, tokenizer, data):
    # What mixes Mixtral's experts does not run in float64.
    dtype, close = (torch.float32, 1e-5) if architecture is MIXTRAL else (torch.float64, 1e-9)
    model = architecture.build(dtype)
    names, cut = targets_of(model), cut_for(model, tokenizer, data)[:6]
    loss = softened(seed=3)
    seen = watch(model, names, batches(model, tokenizer, cut), ALL, loss=loss)
    single = alone(model, tokenizer, cut)
    second, fisher = brute_force(model, names, single, loss)
    assert list(seen.gradients) == names
    for name, moment in seen.gradients.items():
        assert moment.second.dtype == moment.fisher.dtype == torch.float64
        assert relative(moment.second, second[name]) < close, name
        assert relative(moment.fisher, fisher[name]) < close, name
        assert moment.windows == len(cut)
        # A key of a cross-attention is as long as what the encoder read.
        lengths = {sum(int(batch[key].sum()) for batch in single) for key in single[0] if "mask" in key}
        assert moment.tokens in lengths
        assert moment.absolute is None


@pytest.mark.parametrize("architecture", [LLAMA, T5, BERT], ids=str)
@pytest.mark.parametrize("shards", [1, 2, 7])
def test_shards_of_the_data_add_up_to_the_whole(architecture, shards, tokenizer, data):
    model = architecture.build(torch.float64)
    names, cut = targets_of(model), cut_for(model, tokenizer, data)
    whole = watch(model, names, batches(model, tokenizer, cut), ALL, loss=softened())
    merged = merge(
        [
            watch(model, names, batches(model, tokenizer, cut[at::shards], 64), ALL, loss=softened())
            for at in range(shards)
        ]
    )
    assert (merged.spaces, merged.tokens, merged.kinds) == (whole.spaces, whole.tokens, whole.kinds)
    for one, other in ((merged.moments, whole.moments), (merged.gradients, whole.gradients)):
        assert one.keys() == other.keys()
        for name, moment in other.items():
            assert (one[name].tokens, one[name].windows) == (moment.tokens, moment.windows)
            for kind in ("second", "absolute", "fisher"):
                if getattr(moment, kind) is not None:
                    assert relative(getattr(one[name], kind), getattr(moment, kind)) < 1e-9, (name, kind)


def test_parts_are_left_as_they_were_and_what_one_lacks_comes_from_the_others():
    model = LLAMA.build()
    names = targets_of(model)
    one, other = (watch(model, names, [batch], ALL, loss=true_labels()) for batch in (IDS, IDS))
    del other.moments[names[3]], other.gradients[names[3]]
    before = one.moments[names[0]].second.clone()
    merged = merge([one, other])
    assert torch.equal(one.moments[names[0]].second, before)
    assert torch.equal(merged.moments[names[0]].second, 2 * before)
    assert torch.equal(merged.moments[names[3]].second, one.moments[names[3]].second)
    assert merged.gradients[names[3]].windows == 2
    assert merged.gradients[names[0]].windows == 4


def test_parts_that_do_not_fit_are_refused():
    model = LLAMA.build()
    names = targets_of(model)
    part = watch(model, names, [IDS], ALL, loss=true_labels())
    with pytest.raises(ValueError, match="spaces"):
        merge([part, watch(model, names[:3], [IDS], ALL, loss=true_labels())])
    with pytest.raises(ValueError, match="sums"):
        merge([part, watch(model, names, [IDS], BACKWARD, loss=true_labels())])
    with pytest.raises(ValueError, match="nothing"):
        merge([])


def test_a_target_that_no_gradient_reaches_is_absent():
    model = BERT.build()
    names = [*targets_of(model), "pooler.dense"]
    seen = watch(model, names, [IDS], ALL, loss=softened())
    assert set(seen.gradients) == set(names) - {"pooler.dense"}
    assert set(seen.spaces) == set(names)
    assert "pooler.dense" in seen.moments
    last = watch(model, ["pooler.dense"], [IDS], ALL, loss=softened())
    assert last.gradients == {}


@pytest.mark.parametrize("kinds", [{"gradient"}, {"fisher"}, {"second", "fisher"}])
def test_only_what_is_asked_for_is_summed(kinds):
    model = LLAMA.build()
    seen = watch(model, targets_of(model), [IDS], frozenset(kinds), loss=true_labels())
    assert bool(seen.moments) == ("second" in kinds)
    for moment in seen.gradients.values():
        assert (moment.second is not None) == ("gradient" in kinds)
        assert (moment.fisher is not None) == ("fisher" in kinds)


def test_what_cannot_be_asked_for_is_refused():
    model = LLAMA.build()
    with pytest.raises(ValueError, match="loss"):
        watch(model, targets_of(model), [IDS], BACKWARD)
    with pytest.raises(ValueError, match="third"):
        watch(model, targets_of(model), [IDS], frozenset({"third"}))


class Toy(nn.Module):
    """Two linears and what may happen between them: other orders, calls, changes in place."""

    device = torch.device("cpu")

    def __init__(self, kind: str = "plain") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind = kind
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()

    def forward(self, input_ids, attention_mask=None):
        x = torch.sin(input_ids.unsqueeze(-1).double() * torch.arange(1.0, 5.0))
        shape = x.shape
        if self.kind == "flat":
            x = x.reshape(-1, 4)
        if self.kind == "shuffled":
            x = x.reshape(-1, 4).flip(0)[:-1]
        if self.kind == "transposed":
            x = x.transpose(0, 1)[:, :, None]
        y = self.first(x)
        if self.kind == "in place":
            y.mul_(2)
        y = torch.tanh(y)
        if self.kind == "twice":
            y = torch.tanh(self.first(y)) + self.first(x.cos()).detach()
        if self.kind == "overflowing":
            y = (y * 0).abs().sqrt() + y
        y = self.second(y)
        return y.reshape(*shape[:2], 3) if self.kind == "flat" else y


def squares(output: torch.Tensor, batch: Any) -> torch.Tensor:
    if "attention_mask" in batch:
        output = output[batch["attention_mask"].bool()]
    return output.square().sum()


ROWS = [torch.tensor([[1, 2, 3, 7]]), torch.tensor([[4, 5]])]
PADDED = {
    "input_ids": torch.tensor([[1, 2, 3, 7], [4, 5, 99, 99]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}


@pytest.mark.parametrize("kind", ["plain", "in place", "flat", "twice"])
def test_padded_windows_of_any_model_are_those_of_autograd(kind):
    toy = Toy(kind)
    names = ["first", "second"]
    seen = watch(toy, names, [PADDED], BACKWARD, loss=squares)
    for name in names:
        second, fisher = by_hand(toy, name)
        assert relative(seen.gradients[name].second, second) < 1e-12, name
        assert relative(seen.gradients[name].fisher, fisher) < 1e-12, name
        assert seen.gradients[name].windows == 2


def by_hand(toy: Toy, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Each call's output has a zero added that asks for its gradient; the weight's is autograd's own."""
    second, fisher = torch.zeros(()), torch.zeros(())
    zeros: list[torch.Tensor] = []

    def add(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        zeros.append(torch.zeros_like(output, requires_grad=True))
        return output + zeros[-1]

    hook = toy.get_submodule(name).register_forward_hook(add)
    for ids in ROWS:
        zeros.clear()
        toy.zero_grad()
        squares(toy(ids), {}).backward()
        for zero in zeros:
            if zero.grad is not None:
                g = zero.grad.reshape(-1, zero.shape[-1])
                second = second + g.T @ g
        fisher = fisher + toy.get_submodule(name).weight.grad.square().sum(1)
    hook.remove()
    return second, fisher


def test_where_a_window_ends_nowhere_each_token_is_one():
    toy = Toy("shuffled")
    batch = {"input_ids": torch.tensor([[1, 2, 3], [4, 5, 6]])}
    moment = watch(toy, ["first"], [batch], BACKWARD, loss=squares).gradients["first"]
    expected = torch.zeros(4).double()
    for token in range(2, 7):
        toy.zero_grad()
        squares(toy(torch.tensor([[token, token]])), {}).backward()
        expected += toy.first.weight.grad.square().sum(1)
    assert moment.windows == moment.tokens == 5
    assert relative(moment.fisher, expected) < 1e-12


def test_a_shape_that_no_mask_explains_is_refused_where_something_is_padded():
    toy = Toy("transposed")
    with pytest.raises(PaddingUnknownError, match="first"):
        watch(toy, ["first"], [PADDED], BACKWARD, loss=lambda output, batch: output.sum())
    assert not any(map(len, hooks_of(toy)))
    assert all(parameter.requires_grad for parameter in toy.parameters())


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_output():
    toy = Toy("overflowing")
    with pytest.raises(EckartError, match="calibrating, the gradient at the output of first is not finite"):
        watch(toy, ["first", "second"], [PADDED], frozenset({"gradient"}), loss=squares)
    with pytest.raises(EckartError, match="calibrating, the gradient at the output of first is not finite"):
        watch(toy, ["first", "second"], [PADDED], frozenset({"fisher"}), loss=squares)


def test_of_gradients_that_are_not_finite_the_one_nearest_the_loss_is_named():
    model = LLAMA.build()

    def loss(output: Any, batch: Any) -> torch.Tensor:
        return (0 * output.logits).abs().sqrt().sum()

    with pytest.raises(EckartError, match=r"model\.layers\.1\.mlp\.down_proj is not finite"):
        watch(model, targets_of(model), [IDS], BACKWARD, loss=loss)


def test_a_loss_that_is_not_finite_is_an_error_that_names_the_batch_or_what_overflowed():
    model = LLAMA.build()
    with torch.no_grad():
        model.lm_head.weight[3] = torch.inf
    with pytest.raises(EckartError, match="loss of batch 1 is not finite"):
        watch(model, targets_of(model), [IDS], ALL, loss=softened())
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = torch.inf
    with pytest.raises(EckartError, match=r"model\.layers\.1\.self_attn\.q_proj read values"):
        watch(model, targets_of(model), [IDS], ALL, loss=softened())


def hooks_of(model: Any) -> list[list[int]]:
    return [[*module._forward_hooks, *module._forward_pre_hooks] for module in model.modules()]


@pytest.mark.parametrize("architecture", [GPT2, MIXTRAL], ids=str)
def test_a_model_is_left_as_it_was(architecture):
    model = architecture.build()
    names = targets_of(model)
    expected = watch(model, names, [IDS], ALL, loss=softened())
    model.train()
    model.gradient_checkpointing_enable()
    frozen = list(model.parameters())[::3]
    for parameter in frozen:
        parameter.requires_grad_(False)
    asked = [parameter.requires_grad for parameter in model.parameters()]
    hooks = hooks_of(model)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    seen = watch(model, names, [IDS], ALL, loss=softened())
    assert [parameter.requires_grad for parameter in model.parameters()] == asked
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(map(torch.equal, model.parameters(), before))
    assert all(module.training for module in model.modules())
    assert hooks_of(model) == hooks
    for name, moment in expected.gradients.items():
        assert relative(seen.gradients[name].second, moment.second) < 1e-6


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_callers_modes_do_not_matter(mode):
    model = LLAMA.build()
    names = targets_of(model)
    expected = watch(model, names, [IDS], ALL, loss=true_labels())
    with mode():
        batch = {key: value + 0 for key, value in IDS.items()}
        seen = watch(model, names, [batch], ALL, loss=true_labels())
    # Outside, what came of it can be changed.
    merge([seen, expected]).moments[names[0]].second.add_(1)
    for name, moment in expected.gradients.items():
        assert torch.equal(seen.gradients[name].second, moment.second)
        seen.gradients[name].second.add_(1)


def test_a_loss_may_keep_what_a_caller_made_in_inference_mode():
    toy = Toy()
    with torch.inference_mode():
        batch = {key: value.clone() for key, value in PADDED.items()}
        seen = watch(
            toy,
            ["first"],
            [batch | {"labels": torch.ones(2, 4, 3).double()}],
            BACKWARD,
            loss=lambda output, batch: (output * batch["labels"]).sum(),
        )
    assert seen.gradients["first"].windows == 2


def test_a_model_that_bears_no_gradient_is_refused():
    with torch.inference_mode():
        model = LLAMA.build()
        with pytest.raises(EckartError, match="inference_mode"):
            watch(model, targets_of(model), [IDS], ALL, loss=true_labels())
        assert watch(model, targets_of(model), [IDS], frozenset({"second"})).moments


def test_a_half_precision_model_is_summed_in_float64(tokenizer, data):
    model = LLAMA.build()
    names, made = targets_of(model), batches(model, tokenizer, cut_for(model, tokenizer, data))
    full = watch(model, names, made, ALL, loss=true_labels())
    half = watch(model.to(torch.bfloat16), names, made, ALL, loss=true_labels())
    for name, moment in half.gradients.items():
        assert moment.second.dtype == moment.fisher.dtype == torch.float64
        assert relative(moment.second, full.gradients[name].second) < 5e-2
        assert relative(moment.fisher, full.gradients[name].fisher) < 5e-2
