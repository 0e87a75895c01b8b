"""Embeddings of tokens and tied heads: what they become, and that what is tied stays so."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import fitting
import pytest
import torch
from architectures import BERT, GEMMA3, GPT2, LLAMA, QWEN3, T5, VOCABULARY, WIDTH, outputs, some_inputs
from fitting import EMBEDDING
from torch import nn

from eckart import structures
from eckart.model import portable, replacing, vocabulary
from eckart.model.targets import find_targets
from eckart.structures import Site, put
from eckart.structures.lowrank import LowRankEmbedding
from eckart.types import Moment, Target

STRUCTURES = pytest.mark.parametrize("structure", EMBEDDING)
RANK = 12
SITE = Site((Target("embedding", VOCABULARY, WIDTH, False),))


def leader(model: Any) -> str:
    name = vocabulary.leader_of(model)
    assert name is not None
    return name


def factored(architecture: Any, structure: Any) -> tuple[Any, Any]:
    """A model whose embedding is a structure, and one with what that stands for in its place."""
    model, dense = architecture.build(), architecture.build()
    weight = dense.get_submodule(leader(dense)).weight
    option, tensors = fitting.fitted(weight, structure, RANK)
    with torch.no_grad():
        weight.copy_(fitting.dense(structure, tensors, option.size))
    replacing.replace(model, leader(model), option, tensors)
    return model, dense


def tensors_of(module: Any, role: str) -> dict[str, Any]:
    """The tensors of an embedding's structure that have a role, by name."""
    held = dict(module.named_parameters()) | dict(module.named_buffers())
    parts = structures.parts_of(module)
    return {name: held[name] for name, part in parts.items() if part.role == role}


@STRUCTURES
@pytest.mark.parametrize("architecture", [QWEN3, GEMMA3, GPT2, T5, BERT, LLAMA], ids=str)
def test_a_factored_embedding_computes_what_the_product_does(architecture, structure):
    model, dense = factored(architecture, structure)
    inputs = some_inputs(architecture)
    torch.testing.assert_close(outputs(model, inputs), outputs(dense, inputs), rtol=1e-4, atol=1e-4)
    size = replacing.count_parameters(dense) - replacing.count_parameters(model)
    assert size == VOCABULARY * WIDTH - structures.find(structure).parameters(SITE, RANK)


@STRUCTURES
@pytest.mark.parametrize("architecture", [QWEN3, GEMMA3, T5], ids=str)
def test_what_is_tied_stays_tied(architecture, structure):
    model, _ = factored(architecture, structure)
    replacing.describe(model)
    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    for _ in range(2):
        for name, matrix in tensors_of(entry, "matrix").items():
            assert head.get_parameter(name) is matrix
        # transformers ties again whenever it is asked to.
        model.tie_weights()
    # Indices are saved once.
    for name in tensors_of(entry, "index"):
        assert sum(saved.endswith(f".{name}") for saved in model.state_dict()) == 1
        assert head.get_buffer(name) is entry.get_buffer(name)
    for name, matrix in tensors_of(entry, "matrix").items():
        with torch.no_grad():
            matrix.mul_(2)
        assert torch.equal(head.get_parameter(name), matrix)
    ((name, described),) = model.config.quantization_config.modules.items()
    assert name == next(n for n, module in model.named_modules() if module is entry)
    assert described["tied"][-1] == "lm_head"
    assert model.config.quantization_config.format_version == 2


@STRUCTURES
@pytest.mark.parametrize("architecture", [QWEN3, GEMMA3, T5, BERT], ids=str)
def test_merged_it_is_one_dense_weight_again(architecture, structure):
    model, dense = factored(architecture, structure)
    replacing.describe(model)
    inputs = some_inputs(architecture)
    before = outputs(model, inputs)
    replacing.merge(model)
    torch.testing.assert_close(outputs(model, inputs), before, rtol=1e-4, atol=1e-4)
    assert {n: p.shape for n, p in model.named_parameters()} == {
        n: p.shape for n, p in dense.named_parameters()
    }
    assert model.all_tied_weights_keys == dense.all_tied_weights_keys
    assert type(model.get_input_embeddings()) is type(dense.get_input_embeddings())


def test_embeddings_come_by_name_alone():
    for architecture in (QWEN3, BERT, T5):
        names = [target.name for target in find_targets(architecture.build()).targets]
        assert not [name for name in names if "embed" in name or name == "lm_head"]
    for pattern in ("embed_tokens", "lm_head", "model.embed_tokens", "*embed*"):
        found = find_targets(QWEN3.build(), [pattern])
        assert found.targets == [Target("lm_head", VOCABULARY, WIDTH, False)]
        assert found.notes == ["model.embed_tokens and lm_head are one weight: they get one pair of factors"]
    apart = find_targets(LLAMA.build(), ["embed_tokens", "lm_head"])
    assert [target.name for target in apart.targets] == ["model.embed_tokens", "lm_head"]
    assert not apart.notes
    (encoder,) = find_targets(BERT.build(), ["word_embeddings"]).targets
    assert encoder == Target("embeddings.word_embeddings", VOCABULARY, WIDTH, False)
    assert find_targets(T5.build(), ["shared"]) == find_targets(T5.build(), ["lm_head"])


def test_without_weights_the_same_is_found():
    for architecture, pattern in ((QWEN3, "lm_head"), (GEMMA3, "embed_tokens"), (LLAMA, "embed_tokens")):
        with torch.device("meta"):
            empty = architecture.make()
        empty.tie_weights()
        assert find_targets(empty, [pattern]) == find_targets(architecture.build(), [pattern])


def test_positions_are_no_embedding_of_tokens():
    assert "wpe" not in str(find_targets(GPT2.build(), ["*"]).targets)


class Normed(nn.Embedding):
    def forward(self, ids):
        return nn.functional.normalize(super().forward(ids), dim=-1)


def test_an_embedding_that_computes_something_else_stays_dense():
    model = LLAMA.build()
    model.model.embed_tokens = Normed(VOCABULARY, WIDTH)
    found = find_targets(model, ["embed_tokens", "q_proj"])
    assert "model.embed_tokens" not in [target.name for target in found.targets]
    assert found.notes == [
        "model.embed_tokens stays dense: it computes something else than an embedding does"
    ]


def test_a_scale_is_kept():
    model = GEMMA3.build()
    assert vocabulary.scale_of(model.model.embed_tokens) == pytest.approx(WIDTH**0.5)
    assert vocabulary.scale_of(nn.Embedding(5, 3, max_norm=1.0)) is None


def test_padding_learns_nothing():
    embedding = LowRankEmbedding(7, 5, 3, padding_idx=2)
    embedding(torch.tensor([2, 4])).sum().backward()
    assert not embedding.U.weight.grad[2].any()
    assert embedding.U.weight.grad[4].any()


@STRUCTURES
def test_ids_of_any_shape(structure):
    embedding = structures.find(structure).embedding(nn.Embedding(11, 6), 3, 1.0, None)
    ids = torch.randint(11, (2, 3, 4))
    assert embedding(ids).shape == (2, 3, 4, 6)
    assert embedding.weight.shape == (11, 6)
    assert embedding.weight.is_meta


def test_resizing_a_factored_embedding_is_an_error():
    model, _ = factored(QWEN3, "lowrank")
    replacing.describe(model)
    with pytest.raises(Exception, match="LowRankEmbedding"):
        model.resize_token_embeddings(VOCABULARY + 8)


def test_a_dense_one_that_is_put_back_is_tied_as_it_was():
    model = QWEN3.build()
    inputs = some_inputs(QWEN3)
    before = outputs(model, inputs)
    old = {name: model.get_submodule(name) for name in ("lm_head", "model.embed_tokens")}
    fitting.put_fitted(model, "lm_head", "pivoted", RANK)
    assert not torch.allclose(outputs(model, inputs), before)
    for name, module in old.items():
        put(model, name, module)
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(outputs(model, inputs), before)


def test_of_a_tied_pair_of_which_the_config_names_one_the_other_stays():
    with torch.device("meta"):
        model = QWEN3.make()
    portable.swap_modules(model, {"model.embed_tokens": {"rank": 8, "structure": "lowrank", "tied": []}})
    assert type(model.model.embed_tokens) is LowRankEmbedding
    assert type(model.lm_head) is nn.Linear
    assert model.all_tied_weights_keys == {}


def test_a_copy_of_a_tied_pair_is_a_tied_pair():
    model, _ = factored(QWEN3, "pivoted")
    twin = copy.deepcopy(model)
    assert twin.lm_head.U.weight is twin.model.embed_tokens.U.weight
    assert twin.lm_head.U.weight is not model.lm_head.U.weight


@dataclass
class Window:
    ids: list[int]


def test_tokens_weigh_by_how_often_they_come_and_half_alike():
    target = Target("embed", 5, 3, False)
    moment = vocabulary.counts([Window([1, 1, 2]), Window([1])], target)
    assert moment.fisher is not None
    shares = moment.fisher / moment.fisher.sum()
    assert shares.tolist() == pytest.approx([0.1, 0.1 + 3 / 8, 0.1 + 1 / 8, 0.1, 0.1])


def test_what_a_head_reads_is_blended_with_the_identity_at_its_weight():
    second = torch.diag(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    moment = vocabulary.blended(Moment(10, second, torch.tensor([1.0, 2.0, 3.0])))
    assert moment.second is not None
    assert moment.second.diagonal().tolist() == [4.0, 5.0, 9.0]
    assert moment.absolute is not None
    assert moment.absolute.tolist() == [3.0, 4.0, 5.0]
    assert second.diagonal().tolist() == [1.0, 2.0, 6.0]
