"""Moments are what the targets read, each real token once, whatever the batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from architectures import ARCHITECTURES, BERT, GPT2, LAYERS, LLAMA, MAMBA, T5
from torch import nn
from watching import ALL, alone, cut_for, relative, targets_of

from eckart.calibrate import Observed, PaddingUnknownError, watch
from eckart.calibrate.losses import softened
from eckart.model.targets import block_of
from eckart.model.text import batches
from eckart.types import EckartError

BOTH = frozenset({"second", "absolute"})


def assert_same(one: Any, other: Any, tolerance: float) -> None:
    assert one.spaces == other.spaces
    assert one.tokens == other.tokens
    assert one.moments.keys() == other.moments.keys()
    for space, moment in one.moments.items():
        assert moment.tokens == other.moments[space].tokens, space
        assert relative(moment.second, other.moments[space].second) < tolerance, space
        assert relative(moment.absolute, other.moments[space].absolute) < tolerance, space


# Input spaces


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_modules_that_read_one_activation_share_its_space_and_no_others_do(architecture, tokenizer, data):
    model = architecture.build()
    names = targets_of(model)
    spaces = watch(model, names, batches(model, tokenizer, cut_for(model, tokenizer, data)[:2]), BOTH).spaces
    expected: dict[Any, set[str]] = {}
    for name in names:
        group = next((g for g in architecture.spaces if name.endswith(tuple(f".{e}" for e in g))), None)
        key = (block_of(model, name), group) if group else name
        if architecture.shared and name.endswith(tuple(f".{ending}" for ending in architecture.shared)):
            key = architecture.shared
        expected.setdefault(key, set()).add(name)
    found: dict[str, set[str]] = {}
    for name, space in spaces.items():
        found.setdefault(space, set()).add(name)
    assert sorted(map(sorted, found.values())) == sorted(map(sorted, expected.values()))
    assert all(space == next(name for name in names if name in members) for space, members in found.items())


class Toy(nn.Module):
    """Two linears that are handed one tensor, which may change between them."""

    device = torch.device("cpu")

    def __init__(self, change: bool = False, shape: str = "plain") -> None:
        super().__init__()
        self.change, self.shape = change, shape
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, input_ids, attention_mask=None):
        x = input_ids.unsqueeze(-1) * torch.arange(1.0, 5.0)
        if self.shape == "transposed":
            x = x.transpose(0, 1).contiguous()[:, :, None, :]
        if self.shape == "flat":
            x = x.reshape(-1, 4)
        self.first(x)
        if self.change:
            x.add_(1)
        return self.second(x)


@pytest.mark.parametrize("change", [False, True])
def test_a_tensor_changed_in_place_between_two_modules_is_two_inputs(change):
    torch.manual_seed(0)
    batch = {"input_ids": torch.tensor([[1, 2, 3]])}
    seen = watch(Toy(change), ["first", "second"], [batch], BOTH)
    assert len(seen.moments) == 1 + change
    x = torch.tensor([[1.0], [2.0], [3.0]]).double() * torch.arange(1.0, 5.0)
    assert torch.equal(seen.moments["first"].second, x.T @ x)
    if change:
        assert torch.equal(seen.moments["second"].second, (x + 1).T @ (x + 1))


def test_a_module_that_is_never_called_has_no_moment():
    toy = Toy()
    toy.third = nn.Linear(4, 4)
    seen = watch(toy, ["first", "third"], [{"input_ids": torch.tensor([[1, 2]])}], BOTH)
    assert set(seen.moments) == {"first"}
    assert seen.spaces["third"] == "third"


# Moments by hand


def llama_inputs(model: Any, ids: list[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What each target of a Llama reads, and the logits, written out in float64 without its code."""
    config = model.config
    state = {name: tensor.detach().double() for name, tensor in model.state_dict().items()}
    length, size = len(ids), config.hidden_size // config.num_attention_heads
    groups = config.num_attention_heads // config.num_key_value_heads
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(0, size, 2).double() / size)
    angles = torch.outer(torch.arange(length).double(), frequencies)
    cos, sin = (torch.cat([f(angles), f(angles)], -1) for f in (torch.cos, torch.sin))

    def norm(x, name):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * state[name]

    def rotate(x):
        turned = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
        return x * cos + turned * sin

    def heads(x, count):
        return x.reshape(length, count, size).transpose(0, 1)

    read: dict[str, torch.Tensor] = {}

    def linear(name, x):
        read[name] = x
        return x @ state[f"{name}.weight"].T

    future = torch.full((length, length), -math.inf).triu(1)
    x = state["model.embed_tokens.weight"][ids]
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}"
        h = norm(x, f"{at}.input_layernorm.weight")
        q = rotate(heads(linear(f"{at}.self_attn.q_proj", h), config.num_attention_heads))
        k = rotate(heads(linear(f"{at}.self_attn.k_proj", h), config.num_key_value_heads))
        v = heads(linear(f"{at}.self_attn.v_proj", h), config.num_key_value_heads)
        k, v = k.repeat_interleave(groups, 0), v.repeat_interleave(groups, 0)
        weights = (q @ k.transpose(1, 2) / math.sqrt(size) + future).softmax(-1)
        attended = (weights @ v).transpose(0, 1).reshape(length, -1)
        x = x + linear(f"{at}.self_attn.o_proj", attended)
        h = norm(x, f"{at}.post_attention_layernorm.weight")
        gate = nn.functional.silu(linear(f"{at}.mlp.gate_proj", h))
        x = x + linear(f"{at}.mlp.down_proj", gate * linear(f"{at}.mlp.up_proj", h))
    return read, norm(x, "model.norm.weight") @ state["lm_head.weight"].T


def test_llamas_moments_are_those_computed_by_hand(tokenizer, data):
    model = LLAMA.build()
    cut = cut_for(model, tokenizer, data)
    by_hand: dict[str, list[torch.Tensor]] = {}
    for window in cut:
        read, logits = llama_inputs(model, window.ids)
        with torch.no_grad():
            assert relative(model(torch.tensor([window.ids])).logits[0].double(), logits) < 1e-5
        for name, x in read.items():
            by_hand.setdefault(name, []).append(x)
    names = targets_of(model)
    assert set(by_hand) == set(names)
    seen = watch(model, names, batches(model, tokenizer, cut), BOTH)
    for name in names:
        x, moment = torch.cat(by_hand[name]), seen.moments[seen.spaces[name]]
        assert moment.tokens == len(x) == sum(len(window.ids) for window in cut)
        assert moment.second.dtype == moment.absolute.dtype == torch.float64
        assert relative(moment.second, x.T @ x) < 1e-5
        assert relative(moment.absolute, x.abs().sum(0)) < 1e-5


@torch.no_grad()
def test_an_encoders_moments_are_those_of_its_hidden_states(tokenizer, data):
    model = BERT.build()
    cut = cut_for(model, tokenizer, data)
    states = [
        model.double()(torch.tensor([window.ids]), output_hidden_states=True).hidden_states for window in cut
    ]
    seen = watch(model.float(), targets_of(model), batches(model, tokenizer, cut), BOTH)
    for layer in range(LAYERS):
        x = torch.cat([state[layer][0] for state in states])
        moment = seen.moments[f"encoder.layer.{layer}.attention.self.query"]
        assert moment.tokens == len(x)
        assert relative(moment.second, x.T @ x) < 1e-5
        assert relative(moment.absolute, x.abs().sum(0)) < 1e-5


@torch.no_grad()
def test_an_encoder_decoders_moments_are_those_of_its_hidden_states(tokenizer, data):
    model = T5.build()
    cut = cut_for(model, tokenizer, data)
    model.double()
    read, written, across = ([[] for _ in range(LAYERS)] for _ in range(3))
    for window in cut:
        answer = model(
            input_ids=torch.tensor([window.ids]),
            decoder_input_ids=torch.tensor([[model.config.decoder_start_token_id, *window.labels[:-1]]]),
            output_hidden_states=True,
        )
        across[0].append(answer.encoder_last_hidden_state[0])
        for layer in range(LAYERS):
            norm = model.encoder.block[layer].layer[0].layer_norm
            read[layer].append(norm(answer.encoder_hidden_states[layer][0]))
            norm = model.decoder.block[layer].layer[0].layer_norm
            written[layer].append(norm(answer.decoder_hidden_states[layer][0]))
    seen = watch(model.float(), targets_of(model), batches(model, tokenizer, cut), BOTH)
    checked = 0
    for name, rows, labels in [
        *((f"encoder.block.{i}.layer.0.SelfAttention.v", read[i], False) for i in range(LAYERS)),
        *((f"decoder.block.{i}.layer.0.SelfAttention.v", written[i], True) for i in range(LAYERS)),
        *((f"decoder.block.{i}.layer.1.EncDecAttention.v", across[0], False) for i in range(LAYERS)),
    ]:
        x, moment = torch.cat(rows), seen.moments[seen.spaces[name]]
        assert moment.tokens == len(x) == sum(len(w.labels if labels else w.ids) for w in cut)
        assert relative(moment.second, x.T @ x) < 1e-5
        assert relative(moment.absolute, x.abs().sum(0)) < 1e-5
        checked += 1
    assert checked == 3 * LAYERS


# Batches and padding


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_padding_never_counts(architecture, tokenizer, data):
    model = architecture.build()
    cut = cut_for(model, tokenizer, data)
    together, alone = batches(model, tokenizer, cut), batches(model, tokenizer, cut, batch_tokens=1)
    assert len(together) == 1
    assert len(alone) == len(cut)
    assert (together[0]["attention_mask"] == 0).any()
    assert all((batch["attention_mask"] == 1).all() for batch in alone)
    names = targets_of(model)
    assert_same(watch(model, names, together, BOTH), watch(model, names, alone, BOTH), 1e-5)


@pytest.mark.parametrize("architecture", [LLAMA, BERT, T5], ids=str)
@pytest.mark.parametrize("batch_tokens", [1, 40, 100, 10_000])
def test_order_and_size_of_batches_change_nothing(architecture, batch_tokens, tokenizer, data):
    model = architecture.build()
    cut = cut_for(model, tokenizer, data)
    names = targets_of(model)
    base = watch(model, names, batches(model, tokenizer, cut), BOTH)
    made = batches(model, tokenizer, cut, batch_tokens)
    assert_same(watch(model, names, made[::-1], BOTH), base, 1e-5)


@pytest.mark.parametrize("architecture", [LLAMA, BERT, T5], ids=str)
def test_tokens_are_those_of_the_windows(architecture, tokenizer, data):
    model = architecture.build()
    cut = cut_for(model, tokenizer, data)
    seen = watch(model, targets_of(model), batches(model, tokenizer, cut), BOTH)
    assert seen.tokens == sum(len(window.ids) + len(window.labels or []) for window in cut)


def test_without_a_mask_every_token_counts():
    model = LLAMA.build()
    seen = watch(model, targets_of(model), [{"input_ids": torch.arange(4, 16).reshape(2, 6)}], BOTH)
    assert seen.tokens == 12
    assert {moment.tokens for moment in seen.moments.values()} == {12}


def test_a_flattened_input_is_masked_too():
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    batch = {"input_ids": torch.tensor([[1, 2, 99], [3, 99, 99]]), "attention_mask": mask}
    flat = watch(Toy(shape="flat"), ["first"], [batch], BOTH)
    x = torch.tensor([[1.0], [2.0], [3.0]]).double() * torch.arange(1.0, 5.0)
    assert flat.moments["first"].tokens == 3
    assert torch.equal(flat.moments["first"].second, x.T @ x)


def test_a_shape_that_no_mask_explains_is_refused_where_something_is_padded():
    ids, mask = torch.tensor([[1, 2, 0]]), torch.tensor([[1, 1, 0]])
    toy = Toy(shape="transposed")
    with pytest.raises(PaddingUnknownError, match="first"):
        watch(toy, ["first"], [{"input_ids": ids, "attention_mask": mask}], BOTH)
    whole = watch(toy, ["first"], [{"input_ids": ids[:, :2], "attention_mask": mask[:, :2]}], BOTH)
    assert whole.moments["first"].tokens == 2
    assert not toy.first._forward_pre_hooks


# The run itself


@pytest.mark.parametrize("kinds", [frozenset({"second"}), frozenset({"absolute"}), BOTH])
def test_only_what_is_asked_for_is_summed(kinds):
    model = LLAMA.build()
    seen = watch(model, targets_of(model), [{"input_ids": torch.arange(4, 16).reshape(2, 6)}], kinds)
    for moment in seen.moments.values():
        assert (moment.second is not None) == ("second" in kinds)
        assert (moment.absolute is not None) == ("absolute" in kinds)


@pytest.mark.parametrize("architecture", [GPT2, BERT, T5], ids=str)
def test_dropout_is_no_part_of_a_moment_and_modes_are_left_as_they_were(architecture, tokenizer, data):
    model = architecture.build()
    names, made = targets_of(model), batches(model, tokenizer, cut_for(model, tokenizer, data))
    expected = watch(model, names, made, BOTH)
    model.train()
    frozen = model.get_submodule(names[0])
    frozen.eval()
    seen = watch(model, names, made, BOTH)
    assert_same(seen, expected, 1e-12)
    assert [name for name, module in model.named_modules() if not module.training] == [names[0]]


def test_values_that_are_not_finite_are_an_error_that_names_the_input():
    model = LLAMA.build()
    with torch.no_grad():
        model.model.layers[1].input_layernorm.weight[3] = math.inf
    with pytest.raises(
        EckartError, match=r"model\.layers\.1\.self_attn\.q_proj read values that are not finite"
    ):
        watch(model, targets_of(model), [{"input_ids": torch.arange(4, 16).reshape(2, 6)}], BOTH)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_watching_leaves_no_hook_and_no_gradient(tokenizer, data):
    model = LLAMA.build()
    watch(model, targets_of(model), batches(model, tokenizer, cut_for(model, tokenizer, data)), BOTH)
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_half_precision_model_is_summed_in_float64(tokenizer, data):
    model = LLAMA.build()
    names, made = targets_of(model), batches(model, tokenizer, cut_for(model, tokenizer, data))
    full = watch(model, names, made, BOTH)
    half = watch(model.to(torch.bfloat16), names, made, BOTH)
    assert all(moment.second.dtype == torch.float64 for moment in half.moments.values())
    assert_same(half, full, 3e-2)


# Without the head


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_moments_without_a_head_are_those_with_it(architecture, tokenizer, data):
    model = architecture.build()
    names, made = targets_of(model), batches(model, tokenizer, cut_for(model, tokenizer, data)[:4])
    calls = []
    head = model.get_output_embeddings()
    if head is not None:
        head.register_forward_hook(lambda *_: calls.append(1))
    body = watch(model, names, made, BOTH)
    assert len(calls) == (1 if model.base_model is not model else bool(head) * (1 + len(made)))
    # With gradients the whole model runs.
    whole = watch(model, names, made, ALL, loss=softened())
    assert_same(body, whole, 1e-6)


def test_a_head_that_is_a_target_is_run():
    model = LLAMA.build()
    batch = {"input_ids": torch.arange(4, 16).reshape(2, 6)}
    seen = watch(model, [*targets_of(model), "lm_head"], [batch], BOTH)
    assert seen.moments["lm_head"].tokens == 12


class Wrapped(nn.Module):
    """A model that hands its body something else than it was given, or more."""

    device = torch.device("cpu")

    def __init__(self, more: bool) -> None:
        super().__init__()
        self.more, self.base_model = more, Toy()
        if more:
            plain = self.base_model.forward
            self.base_model.forward = lambda input_ids, scale: plain(scale * input_ids)

    def forward(self, input_ids):
        return self.base_model(input_ids, 2) if self.more else self.base_model(2 * input_ids)


@pytest.mark.parametrize("more", [False, True])
def test_a_body_that_reads_something_else_alone_is_not_run_alone(more):
    seen = watch(Wrapped(more), ["base_model.first"], [{"input_ids": torch.tensor([[1, 2]])}], BOTH)
    x = torch.tensor([[2.0], [4.0]]).double() * torch.arange(1.0, 5.0)
    assert torch.equal(seen.moments["base_model.first"].second, x.T @ x)


def test_spaces_that_are_known_are_taken(tokenizer, data):
    model = LLAMA.build()
    names, single = targets_of(model), alone(model, tokenizer, cut_for(model, tokenizer, data)[:2])
    apart = {name: name for name in names}
    assert set(watch(model, names, single, BOTH, onto=Observed(apart, {}, 0)).moments) == set(names)


@pytest.mark.parametrize("architecture", [LLAMA, T5, MAMBA], ids=str)
def test_nothing_is_kept_for_a_next_token(architecture, tokenizer, data):
    model = architecture.build()
    made = batches(model, tokenizer, cut_for(model, tokenizer, data)[:2])
    kept = []

    def loss(output: Any, batch: Any) -> torch.Tensor:
        kept.append(output.get("past_key_values") or output.get("cache_params"))
        return softened()(output, batch)

    watch(model, targets_of(model), made, ALL, loss=loss)
    assert kept == [None]
    assert model.config.use_cache
