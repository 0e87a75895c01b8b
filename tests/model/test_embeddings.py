"""Embeddings of tokens and tied heads: what they become, and that what is tied stays so."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from architectures import BERT, GEMMA3, GPT2, LLAMA, QWEN3, T5, VOCABULARY, WIDTH, outputs, some_inputs
from torch import nn

from eckart import linalg
from eckart.model import portable, replacing, vocabulary
from eckart.model.portable.embeddings import EMBEDDINGS
from eckart.model.targets import find_targets
from eckart.types import Factors, Moment, Target

STRUCTURES = pytest.mark.parametrize("structure", ["lowrank", "pivoted"])
RANK = 12


def factors_of(weight: torch.Tensor, structure: Any, rank: int = RANK) -> Factors:
    solved = linalg.decompose(weight.detach(), linalg.Side(), linalg.Side(), rank=rank)
    return linalg.factorize(structure, *solved.factors(weight.detach(), rank))


def leader(model: Any) -> str:
    name = vocabulary.leader_of(model)
    assert name is not None
    return name


def factored(architecture: Any, structure: Any) -> tuple[Any, Any]:
    """A model whose embedding is factored, and one with the product of the factors in its place."""
    model, dense = architecture.build(), architecture.build()
    factors = factors_of(dense.get_submodule(leader(dense)).weight, structure)
    with torch.no_grad():
        dense.get_submodule(leader(dense)).weight.copy_(linalg.reconstruct(factors))
    replacing.replace(model, leader(model), factors)
    return model, dense


@STRUCTURES
@pytest.mark.parametrize("architecture", [QWEN3, GEMMA3, GPT2, T5, BERT, LLAMA], ids=str)
def test_a_factored_embedding_computes_what_the_product_does(architecture, structure):
    model, dense = factored(architecture, structure)
    inputs = some_inputs(architecture)
    torch.testing.assert_close(outputs(model, inputs), outputs(dense, inputs), rtol=1e-4, atol=1e-4)
    size = replacing.count_parameters(dense) - replacing.count_parameters(model)
    assert size == VOCABULARY * WIDTH - linalg.parameters(structure, VOCABULARY, WIDTH, RANK)


@STRUCTURES
@pytest.mark.parametrize("architecture", [QWEN3, GEMMA3, T5], ids=str)
def test_what_is_tied_stays_tied(architecture, structure):
    model, _ = factored(architecture, structure)
    replacing.describe(model)
    entry, head = model.get_input_embeddings(), model.get_output_embeddings()
    for _ in range(2):
        assert entry.U.weight is head.U.weight
        assert entry.V.weight is head.V.weight
        # transformers ties again whenever it is asked to.
        model.tie_weights()
    assert sum(name.endswith("order") for name in model.state_dict()) == (structure == "pivoted")
    with torch.no_grad():
        entry.V.weight.mul_(2)
    assert torch.equal(head.V.weight, entry.V.weight)
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
    embedding = portable.LowRankEmbedding(7, 5, 3, padding_idx=2)
    embedding(torch.tensor([2, 4])).sum().backward()
    assert not embedding.U.weight.grad[2].any()
    assert embedding.U.weight.grad[4].any()


@pytest.mark.parametrize("structure", EMBEDDINGS)
def test_ids_of_any_shape(structure):
    embedding = EMBEDDINGS[structure](11, 6, 3)
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
    replacing.replace(model, "lm_head", factors_of(model.lm_head.weight, "pivoted"))
    assert not torch.allclose(outputs(model, inputs), before)
    for name, module in old.items():
        portable.put(model, name, module)
    model.tie_weights()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert torch.equal(outputs(model, inputs), before)


def test_of_a_tied_pair_of_which_the_config_names_one_the_other_stays():
    with torch.device("meta"):
        model = QWEN3.make()
    portable.swap_modules(model, {"model.embed_tokens": {"rank": 8, "structure": "lowrank", "tied": []}})
    assert type(model.model.embed_tokens) is portable.LowRankEmbedding
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
