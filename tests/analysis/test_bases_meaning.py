"""`eckart.bases`: what was planted in a weight is what its bases are named by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, QWEN3, T5, WIDTH, WORDS, Architecture
from fitting import SPECTRAL

import eckart
from eckart.analysis.bases import Bases
from eckart.model import loading, meaning, replacing
from eckart.model.targets import weight_of
from eckart.structures import StructuredLinear

READ, WRITTEN = 21, 7


def token(index: int) -> str:
    return WORDS[index - 4]


def spread(model: Any) -> torch.Tensor:
    """The unembedding, with rows of one length, so that each is nearest to itself."""
    rows = meaning.unembedding_of(model)
    rows /= rows.norm(dim=1, keepdim=True)
    return rows


def plant(model: Any, name: str, left: torch.Tensor, right: torch.Tensor) -> None:
    """Ten times one basis, beside a little of everything."""
    weight = weight_of(model.get_submodule(name))
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    weight.copy_(10 * torch.outer(left, right) + 0.01 * noise)


def one(made: Bases, ending: str) -> Any:
    return next(row for row in made.as_json()["targets"] if row["name"].endswith(ending))


@pytest.mark.parametrize("architecture", [LLAMA, QWEN3, BERT], ids=str)
def test_planted_tokens_are_found(architecture: Architecture, tokenizer: Any) -> None:
    """Through a head of its own, one that is tied, and the embeddings of an encoder."""
    model = architecture.build()
    rows = spread(model)
    inner = torch.ones(80) / 80**0.5
    up, down = {
        "bert": ("encoder.layer.1.intermediate.dense", "encoder.layer.1.output.dense"),
    }.get(architecture.name, ("model.layers.1.mlp.up_proj", "model.layers.1.mlp.down_proj"))
    plant(model, up, inner, rows[READ])
    plant(model, down, rows[WRITTEN], inner)
    made = eckart.bases(model, tokenizer=tokenizer, bases=3, top=5)
    assert made.out is None
    assert ("input embeddings" in " ".join(made.notes)) == (architecture is BERT)

    reading = one(made, up)
    assert reading["shape"] == [80, WIDTH]
    assert [basis["index"] for basis in reading["bases"]] == [0, 1, 2]
    basis = reading["bases"][0]
    assert basis["writes"] is None
    assert basis["reads"]["plus"][0] == token(READ), "u is positive, so v is as it was planted"
    assert len(basis["reads"]["plus"]) == len(basis["reads"]["minus"]) == 5
    assert basis["value"] == pytest.approx(10, rel=0.01)
    assert basis["share"] > 0.98

    writing = one(made, down)
    assert writing["shape"] == [WIDTH, 80]
    basis = writing["bases"][0]
    assert basis["reads"] is None
    largest = rows[WRITTEN][rows[WRITTEN].abs().argmax()]
    end = "plus" if largest > 0 else "minus"
    assert basis["writes"][end][0] == token(WRITTEN)


@pytest.mark.parametrize("sign", [1, -1])
def test_both_sides_of_a_basis_have_one_sign(tokenizer: Any, sign: int) -> None:
    model = LLAMA.build()
    rows = spread(model)
    plant(model, "model.layers.0.self_attn.o_proj", sign * rows[WRITTEN], rows[READ])
    basis = one(eckart.bases(model, tokenizer=tokenizer, targets=["o_proj"]), "0.self_attn.o_proj")["bases"][
        0
    ]
    end = "plus" if basis["writes"]["plus"][0] == token(WRITTEN) else "minus"
    other = end if sign == 1 else {"plus": "minus", "minus": "plus"}[end]
    assert basis["writes"][end][0] == token(WRITTEN)
    assert basis["reads"][other][0] == token(READ)


def test_the_transposed_weights_of_gpt2(tokenizer: Any) -> None:
    model = GPT2.build()
    rows = spread(model)
    plant(model, "transformer.h.0.attn.c_attn", torch.ones(3 * WIDTH) / 12, rows[READ])
    found = one(eckart.bases(model, tokenizer=tokenizer, layers="0"), "c_attn")
    assert found["shape"] == [3 * WIDTH, WIDTH]
    assert found["bases"][0]["reads"]["plus"][0] == token(READ)
    assert found["bases"][0]["writes"] is None


def test_an_encoder_decoder(tokenizer: Any) -> None:
    made = eckart.bases(T5.build(), tokenizer=tokenizer, bases=1)
    assert len(made.targets) == sum(T5.targets.values())


@pytest.mark.parametrize("structure", SPECTRAL)
def test_factors_say_what_their_product_says(
    structure: str, stored: Any, tmp_path: Path, tokenizer: Any
) -> None:
    small = tmp_path / "small"
    eckart.compress(stored(LLAMA), small, rank=5, structure=structure, targets=["*.mlp.*", "q_proj"])
    factored = eckart.bases(small, bases=8)
    model = loading.load_model(small)
    dense = loading.load_model(stored(LLAMA))
    for target, _ in factored.targets:
        module = model.get_submodule(target.name)
        if isinstance(module, StructuredLinear):
            replacing.reweigh(dense, target.name, replacing.dense_of(module)[0].float())
    product = eckart.bases(dense, tokenizer=tokenizer, bases=8)
    assert [target for target, _ in factored.targets] == [target for target, _ in product.targets]
    counts = {target.name.rpartition(".")[2]: len(found) for target, found in factored.targets}
    assert counts == {
        **dict.fromkeys(("q_proj", "gate_proj", "up_proj", "down_proj"), 5),
        **dict.fromkeys(("k_proj", "v_proj", "o_proj"), 8),
    }, "no more bases than the rank"
    for (_, ours), (_, theirs) in zip(factored.targets, product.targets, strict=True):
        for basis, other in zip(ours, theirs[: len(ours)], strict=True):
            assert (basis.reads, basis.writes) == (other.reads, other.writes)
            assert basis.value == pytest.approx(other.value, rel=1e-5)
    in_memory = eckart.bases(model, tokenizer=tokenizer, bases=8)
    assert in_memory.targets == factored.targets


def test_values_and_shares_are_those_of_the_svd(tokenizer: Any) -> None:
    model = LLAMA.build()
    made = eckart.bases(model, tokenizer=tokenizer, targets=["k_proj"], layers="0", bases=1000)
    (target, found), *more = made.targets
    assert not more
    exact = torch.linalg.svdvals(model.get_submodule(target.name).weight.double())
    assert [basis.value for basis in found] == pytest.approx(exact.tolist())
    assert sum(basis.share for basis in found) == pytest.approx(1)


def test_a_weight_of_zeros_has_no_bases(tokenizer: Any, tmp_path: Path) -> None:
    model = LLAMA.build()
    model.model.layers[0].self_attn.q_proj.weight.data.zero_()
    made = eckart.bases(model, tmp_path / "out", tokenizer=tokenizer, targets=["q_proj"])
    assert [len(found) for _, found in made.targets] == [0, 8]
    assert "The weight is zero." in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_the_folder_holds_what_was_found(stored: Any, tmp_path: Path) -> None:
    made = eckart.bases(stored(LLAMA), tmp_path / "out", bases=2, top=3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["bases.json", "report.html"]
    text = (tmp_path / "out" / "bases.json").read_text(encoding="utf-8")
    assert json.loads(text) == made.as_json()
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.count("<details") == len(made.targets) == sum(LLAMA.targets.values())


def test_what_is_asked_wrongly_is_refused_before_any_weight_is_read(
    stored: Any, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("eckart.model.loading.load_model", load)
    folder = stored(LLAMA)
    for options, words in (
        ({"bases": 0}, "--bases 0"),
        ({"top": 0}, "--top 0"),
        ({"targets": ["nothing"]}, "nothing fits no linear layer"),
        ({"layers": "9"}, "has none of the targets"),
        ({"out": tmp_path}, "exists already"),
    ):
        with pytest.raises(eckart.UsageError, match=words):
            eckart.bases(folder, **options)
    bare = tmp_path / "bare"
    LLAMA.build().save_pretrained(bare)
    with pytest.raises(eckart.UsageError, match="has no tokenizer"):
        eckart.bases(bare)
    with pytest.raises(eckart.UsageError, match="pass tokenizer="):
        eckart.bases(LLAMA.build())


def test_damaged_weights_leave_nothing_behind(tmp_path: Path, tokenizer: Any) -> None:
    model = LLAMA.build()
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = float("nan")
    with pytest.raises(eckart.EckartError, match=r"up_proj\.weight has values that are not finite"):
        eckart.bases(model, tmp_path / "out", tokenizer=tokenizer)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_named_is_said(tokenizer: Any) -> None:
    made = eckart.bases(LLAMA.build(), tokenizer=tokenizer, targets=["q_proj"], bases=1)
    assert any(note.startswith("2 weights are square") for note in made.notes)
    model = LLAMA.build()
    model.set_output_embeddings(torch.nn.Linear(10, 96))
    made = eckart.bases(model, tokenizer=tokenizer, bases=1)
    assert any(note.startswith("no basis has tokens: the unembedding is 10 wide") for note in made.notes)
    assert all(basis.reads is basis.writes is None for _, found in made.targets for basis in found)
