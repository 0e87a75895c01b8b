"""Which weights are targets: by default, by name, by layer, and what is left alone with a note."""

from __future__ import annotations

import pytest
import torch
import transformers
from architectures import (
    ARCHITECTURES,
    BERT,
    GPT2,
    INNER,
    LLAMA,
    MAMBA,
    OPT,
    QWEN3,
    T5,
    WIDTH,
)
from torch import nn

from eckart.model.targets import find_targets
from eckart.types import UsageError

BLOCK = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def names(found):
    return [target.name for target in found.targets]


def shapes(found):
    return {target.name: (target.out_features, target.in_features) for target in found.targets}


def endings(found):
    return {name.rpartition(".")[2] for name in names(found)}


@pytest.fixture(scope="module")
def llama():
    return LLAMA.build()


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_default_is_every_linear_of_the_blocks_and_nothing_else(architecture):
    found = names(find_targets(architecture.build()))
    assert len(found) == len(set(found)) == sum(architecture.targets.values())
    for ending, count in architecture.targets.items():
        assert sum(name.endswith(f".{ending}") for name in found) == count


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_targets_are_the_same_on_the_meta_device(architecture):
    with torch.device("meta"):
        empty = architecture.make()
    # transformers ties on the meta device by declaration only.
    assert find_targets(empty) == find_targets(architecture.build())


def test_shapes_are_out_by_in_also_for_conv1d():
    shapes = {
        target.name: (target.out_features, target.in_features)
        for target in find_targets(GPT2.build()).targets
    }
    assert shapes["transformer.h.0.attn.c_attn"] == (3 * WIDTH, WIDTH)
    assert shapes["transformer.h.1.mlp.c_proj"] == (WIDTH, 4 * WIDTH)
    llama = {
        target.name: (target.out_features, target.in_features)
        for target in find_targets(LLAMA.build()).targets
    }
    assert llama["model.layers.0.mlp.down_proj"] == (WIDTH, INNER)


def test_a_target_says_whether_it_has_a_bias():
    assert all(target.bias for target in find_targets(OPT.build()).targets)
    assert not any(target.bias for target in find_targets(LLAMA.build()).targets)


def test_targets_come_in_the_models_order(llama):
    in_model = [name for name, _ in llama.named_modules()]
    found = names(find_targets(llama, ["up_proj", "q_proj"]))
    assert found == sorted(found, key=in_model.index)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["q_proj"], {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}),
        (["self_attn.q_proj"], {"layers.0.self_attn.q_proj", "layers.1.self_attn.q_proj"}),
        (["model.layers.1.mlp.up_proj"], {"layers.1.mlp.up_proj"}),
        (["*layers.0.mlp*"], {"layers.0.mlp.gate_proj", "layers.0.mlp.up_proj", "layers.0.mlp.down_proj"}),
        (["*.[qk]_proj", "q_proj"], {f"layers.{i}.self_attn.{n}_proj" for i in (0, 1) for n in "qk"}),
    ],
)
def test_patterns_are_endings_at_a_dot_or_globs(llama, patterns, expected):
    assert set(names(find_targets(llama, patterns))) == {f"model.{name}" for name in expected}


@pytest.mark.parametrize("pattern", ["proj", "_proj", "Q_PROJ", "layers.0", "embed", "q_projj", "norm"])
def test_a_pattern_that_fits_no_linear_is_refused_and_those_there_are_are_named(llama, pattern):
    with pytest.raises(UsageError, match=r"fits no linear layer.*down_proj.*lm_head.*q_proj") as error:
        find_targets(llama, ["q_proj", pattern])
    assert f"--targets {pattern} " in str(error.value)


def test_a_misspelt_pattern_is_told_the_nearest(llama):
    with pytest.raises(UsageError, match=r"did you mean q_proj\?"):
        find_targets(llama, ["q_prj"])


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("top:1", {2}),
        ("top:2", {1, 2}),
        ("bottom:1", {0}),
        ("0-1", {0, 1}),
        ("0,1", {0, 1}),
        ("0, 2", {0, 2}),
        ("1-1", {1}),
        ("bottom:1,top:1", {0, 2}),
        ("1-99", {1, 2}),
        ("top:99", {0, 1, 2}),
    ],
)
def test_layers_choose_blocks(layers, expected):
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=8,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=3,
            num_attention_heads=2,
            num_key_value_heads=2,
        )
    )
    found = names(find_targets(model, layers=layers))
    assert {int(name.split(".")[2]) for name in found} == expected
    assert len(found) == len(BLOCK) * len(expected)


@pytest.mark.parametrize("layers", ["2", "0,2", "1-0", "top:0", "0-1,7-9", "00002"])
def test_layers_without_a_target_are_refused_and_the_blocks_are_named(llama, layers):
    with pytest.raises(UsageError, match=r"none of the targets.*model\.layers 0 to 1"):
        find_targets(llama, layers=layers)


@pytest.mark.parametrize(
    "layers", ["", "x", "-1", "0-", "top", "top:", "top:-1", "0;1", "0,,1", "1.5", "top:1.0"]
)
def test_layers_that_are_not_a_choice_are_refused(llama, layers):
    with pytest.raises(UsageError, match=r"none of top:4, bottom:4, 3, 3-7"):
        find_targets(llama, layers=layers)


def test_layers_choose_in_each_stack_by_its_own_length():
    config = T5.build().config
    config.num_decoder_layers = 3
    found = names(find_targets(transformers.T5ForConditionalGeneration(config), ["SelfAttention.q"], "top:1"))
    assert found == ["encoder.block.1.layer.0.SelfAttention.q", "decoder.block.2.layer.0.SelfAttention.q"]


def test_what_is_in_no_block_is_left_out_by_layers_with_a_note(llama):
    found = find_targets(llama, ["q_proj", "lm_head"], "top:1")
    assert names(found) == ["model.layers.1.self_attn.q_proj"]
    assert found.notes == ["lm_head stays dense: --layers top:1 chooses blocks, and it is in none"]


def test_an_untied_head_is_a_target_by_name_only(llama):
    assert "lm_head" not in names(find_targets(llama))
    assert names(find_targets(llama, ["lm_head"])) == ["lm_head"]


@pytest.mark.parametrize("architecture", [QWEN3, GPT2, T5, OPT], ids=str)
def test_a_tied_head_is_one_target_with_its_embedding(architecture):
    block = next(iter(architecture.targets))
    found = find_targets(architecture.build(), ["lm_head", block])
    assert "lm_head" in names(found)
    (note,) = found.notes
    assert note.endswith("and lm_head are one weight: they get one pair of factors")


def test_weights_tied_by_hand_are_no_targets_under_either_name(llama):
    model = LLAMA.build()
    model.model.layers[0].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    found = find_targets(model, ["up_proj", "gate_proj"])
    assert endings(found) == {"gate_proj"}
    assert found.notes == ["model.layers.*.mlp.up_proj stays dense: its weight is tied to another module's"]


def test_a_module_used_in_two_places_is_one_target():
    model = LLAMA.build()
    model.model.layers[1].mlp = model.model.layers[0].mlp
    found = find_targets(model)
    assert len(names(found)) == 2 * 4
    assert not any("mlp" in name for name in names(found))
    assert any("mlp.up_proj stays dense" in note for note in found.notes)


def test_a_head_outside_the_blocks_and_a_pooler_come_by_name_only():
    model = transformers.BertForMaskedLM(BERT.build().config)
    assert not any(name.startswith("cls") for name in names(find_targets(model)))
    assert names(find_targets(model, ["cls.predictions.transform.dense"])) == [
        "cls.predictions.transform.dense"
    ]
    assert not any("pooler" in name for name in names(find_targets(BERT.build())))
    assert names(find_targets(BERT.build(), ["pooler.dense"])) == ["pooler.dense"]


def test_a_weight_that_its_model_reads_directly_stays_dense_with_a_note():
    found = find_targets(MAMBA.build(), ["dt_proj", "in_proj"])
    assert endings(found) == {"in_proj"}
    assert found.notes == [
        "backbone.layers.*.mixer.dt_proj stays dense: its model reads the weight without calling the module"
    ]


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Choosing(nn.Linear):
    def forward(self, x):
        return super().forward(x).topk(2)


class ByHand(nn.Linear):
    def forward(self, x):
        return x @ self.weight.T + (0 if self.bias is None else self.bias)


@pytest.mark.parametrize(("kind", "is_target"), [(Doubling, False), (Choosing, False), (ByHand, True)])
def test_a_subclass_of_linear_is_a_target_only_if_it_answers_as_one(kind, is_target):
    model = LLAMA.build()
    model.model.layers[0].mlp.up_proj = kind(WIDTH, INNER)
    found = find_targets(model, ["layers.0.mlp.up_proj", "q_proj"])
    assert ("up_proj" in endings(found)) is is_target
    assert ("something else than a linear layer" in "".join(found.notes)) is not is_target


def test_an_integer_weight_is_no_target():
    model = LLAMA.build()
    layer = model.model.layers[0].mlp
    layer.up_proj.weight = nn.Parameter(torch.ones(INNER, WIDTH, dtype=torch.int8), requires_grad=False)
    assert names(find_targets(model, ["up_proj"])) == ["model.layers.1.mlp.up_proj"]


def test_finding_targets_changes_nothing():
    model = LLAMA.build().train()
    model.model.layers[0].eval()
    modes = [module.training for module in model.modules()]
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_targets(model)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())
