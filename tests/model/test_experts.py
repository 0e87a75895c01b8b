"""Experts that a model keeps in one tensor become linear layers of their own, and it computes what it did."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from architectures import HEADS, INNER, LAYERS, LLAMA, MIXTRAL, WIDTH, Architecture, _common, _make
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM, initialization

import eckart
from eckart.model import mixtures, portable, replacing
from eckart.model.targets import choose, find_targets, unreached
from eckart.structures import put
from eckart.types import UsageError

EXPERTS = 4
_MOE = _common(num_key_value_heads=2, num_experts_per_tok=2)


def _mixture(name: str, **options: Any) -> Architecture:
    make = _make(f"{name}Config", f"{name}ForCausalLM", **{**_MOE, **options})
    return Architecture(name, "AutoModelForCausalLM", "decoder", make, {}, ())


MIXTURES = [
    _mixture("Mixtral", num_local_experts=EXPERTS),
    _mixture("Qwen3Moe", num_experts=EXPERTS, moe_intermediate_size=32, head_dim=12),
    _mixture(
        "DeepseekV3",
        num_key_value_heads=HEADS,
        n_routed_experts=EXPERTS,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        n_group=1,
        topk_group=1,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=12,
    ),
    # Its experts multiply from the other side, and have biases.
    _mixture("GptOss", num_local_experts=EXPERTS, head_dim=12),
]
KINDS = pytest.mark.parametrize("mixture", MIXTURES, ids=str)
IDS = torch.arange(4, 28).reshape(2, 12)
STACK = "model.layers.1.mlp.experts.down_proj"


def experts_of(model: Any) -> list[str]:
    return [target.name for target in find_targets(model).targets if mixtures.is_expert(model, target.name)]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    answer: torch.Tensor = model(input_ids=IDS).logits
    return answer


def filled(mixture: Architecture) -> Any:
    """A model whose experts count: transformers leaves some of them nearly zero."""
    model = mixture.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 3:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model


@KINDS
def test_an_unrolled_model_computes_what_it_did_and_rolls_back(mixture):
    model = filled(mixture)
    before, shapes = logits(model), {name: each.shape for name, each in model.named_parameters()}
    count = replacing.count_parameters(model)
    names = experts_of(model)
    blocks = LAYERS - 1 if mixture.name == "DeepseekV3" else LAYERS
    assert len(names) == 2 * EXPERTS * blocks
    assert replacing.count_parameters(model) == count
    torch.testing.assert_close(logits(model), before, rtol=1e-5, atol=1e-5)
    # What a copy computes is its own.
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for name in names:
            model.get_submodule(name).weight.zero_()
    torch.testing.assert_close(logits(twin), before, rtol=1e-5, atol=1e-5)
    assert (logits(model) - before).abs().max() > 1e-3
    portable.roll(twin)
    assert {name: each.shape for name, each in twin.named_parameters()} == shapes
    assert "forward" not in twin.get_submodule(STACK.rpartition(".")[0]).__dict__
    assert torch.equal(logits(twin), before)


@KINDS
def test_the_router_stays_dense(mixture):
    names = [target.name for target in find_targets(mixture.build()).targets]
    assert not [name for name in names if name.endswith((".gate", ".router"))]


@KINDS
def test_experts_are_found_without_weights(mixture):
    real = mixture.build()
    with torch.device("meta"):
        empty = mixture.make()
    assert find_targets(empty) == find_targets(real)


def test_a_model_is_unrolled_where_experts_are_chosen_alone():
    model = MIXTRAL.build()
    find_targets(model, ["q_proj"])
    assert not replacing.stacks_of(model)
    found = find_targets(model, ["experts.down_proj"], layers="1")
    assert [target.name for target in found.targets] == [f"{STACK}.{index}" for index in range(2)]
    assert replacing.stacks_of(model) == [STACK]
    assert found.targets[0].out_features == WIDTH
    assert found.targets[0].in_features == INNER
    # Again, they are linear layers like others.
    assert find_targets(model, ["experts.down_proj"], layers="1") == found
    assert choose(model, found.targets, ["down_proj"]) == found.targets


def test_a_name_that_fits_nothing_is_told_the_experts():
    with pytest.raises(UsageError, match=r"did you mean down_proj.*\bgate_up_proj\b"):
        find_targets(MIXTRAL.build(), ["dawn_proj"])


def test_experts_that_are_multiplied_all_at_once_stay_dense():
    class Together(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.randn(2, WIDTH, WIDTH))

        def forward(self, x, index, share):
            return (x @ self.weights.mT).sum(0)

    model = LLAMA.build()
    model.model.layers[0].mlp.experts = Together()
    found = find_targets(model)
    (note,) = found.notes
    assert note.startswith(
        "model.layers.*.mlp.experts.weights (1 three-dimensional tensors, 4,608 parameters) stays dense"
    )
    assert not replacing.stacks_of(model)


def test_experts_that_say_something_else_one_by_one_stay_dense():
    class Twice(nn.Module):
        """Reads its weight beside multiplying by it."""

        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.randn(2, WIDTH, WIDTH))

        def forward(self, x, index, share):
            return nn.functional.linear(x, self.weights[0]) * self.weights[1].sum()

    assert not mixtures.answers_by_expert(Twice(), ["weights"])


def test_nothing_else_is_done_with_an_experts_weight():
    stack = portable.ExpertStack(torch.randn(2, 3, 5))
    x = torch.randn(4, 5)
    assert torch.equal(nn.functional.linear(x, stack[1], torch.ones(3)), stack.get_submodule("1")(x) + 1)
    for misuse in (lambda: x @ stack[1], lambda: stack[1] + 1, lambda: torch.exp(stack[1])):
        with pytest.raises(TypeError):
            misuse()


def test_an_expert_that_is_factored_computes_by_its_factors():
    model = filled(MIXTURES[0])
    names = experts_of(model)
    dense = {name: model.get_submodule(name) for name in names}
    for name, linear in dense.items():
        put(model, name, eckart.LowRankLinear.from_linear(linear, 8))
    answer = logits(model)
    with torch.no_grad():
        for name, linear in dense.items():
            factored = model.get_submodule(name)
            linear.weight.copy_(factored.U.weight @ factored.V.weight)
            put(model, name, linear)
    torch.testing.assert_close(answer, logits(model), rtol=1e-4, atol=1e-5)


def test_experts_learn():
    model = filled(MIXTURES[0])
    names = experts_of(model)
    model(input_ids=IDS, labels=IDS).loss.backward()
    assert any(model.get_submodule(name).weight.grad.abs().sum() > 0 for name in names)
    frozen = filled(MIXTURES[0]).requires_grad_(False)
    assert not any(frozen.get_submodule(name).weight.requires_grad for name in experts_of(frozen))


def test_an_unrolled_model_survives_pickling():
    model = filled(MIXTURES[0])
    before = logits(model)
    experts_of(model)
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(logits(again), before, rtol=1e-5, atol=1e-5)


def test_rolling_leaves_a_model_without_experts_alone():
    model = LLAMA.build()
    model._weight_conversions = ["as loaded"]
    portable.roll(model)
    assert model._weight_conversions == ["as loaded"]


def test_analysis_leaves_a_model_as_it_is():
    model = filled(MIXTURES[0])
    names = [name for name, _ in model.named_parameters()]
    found = eckart.analyze(model)
    assert f"{STACK}.0" in [matrix.name for matrix in found.matrices]
    assert [name for name, _ in model.named_parameters()] == names


def test_a_config_that_names_experts_which_the_model_lacks():
    with torch.device("meta"):
        model = MixtralForCausalLM(MixtralConfig(**_common(num_key_value_heads=2)))
    for name in ("model.layers.0.mlp.experts.up_proj", "model.layers.7.mlp.experts.down_proj"):
        with pytest.raises(
            ValueError, match=f"'{name}' holds experts, but this MixtralForCausalLM has no such"
        ):
            portable.unroll(model, [name])


def test_experts_that_no_token_reached_are_one_note():
    model = MIXTRAL.build()
    experts_of(model)
    notes = unreached(model, [f"{STACK}.0", f"{STACK}.1", "model.layers.0.self_attn.q_proj"])
    assert notes == [
        "model.layers.0.self_attn.q_proj stays dense: no token of the data reached it",
        f"2 of the 2 experts of {STACK} stay dense: no token of the data reached them",
    ]


def test_initialising_weights_passes_over_experts():
    model = MIXTRAL.build()
    experts_of(model)
    kept = model.get_submodule(f"{STACK}.0").weight.clone()
    model.get_submodule(STACK.rpartition(".")[0])._is_hf_initialized = False
    with initialization.guard_torch_init_functions():
        model._init_weights(model.get_submodule(STACK.rpartition(".")[0]))
    assert torch.equal(model.get_submodule(f"{STACK}.0").weight, kept)
