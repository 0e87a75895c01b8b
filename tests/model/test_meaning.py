"""Directions named by tokens, tokens as people read them, and the weights of a compressed model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from architectures import BERT, GPT2, LLAMA, QWEN3, T5, VOCABULARY, WIDTH, WORDS, Architecture
from fitting import SMALLER, put_fitted
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from eckart import UsageError
from eckart.model import meaning
from eckart.model.targets import find_targets


def tokenizer_of(tokens: list[str], decoder: Any = None) -> Any:
    made = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=tokens[0])
    )
    if decoder is not None:
        made.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=made)


class Embedded(SimpleNamespace):
    """A model that is its embeddings and nothing else."""

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(weight=self.rows)


def shown(tokens: list[str], decoder: Any = None) -> list[str]:
    found = meaning.Unembedding(Embedded(rows=torch.eye(len(tokens))), tokenizer_of(tokens, decoder))
    return found.tokens


def test_tokens_of_a_direction_are_those_with_the_largest_products() -> None:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    directions = torch.randn(3, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    unembedding = meaning.Unembedding(Embedded(rows=rows), tokenizer_of([f"t{index}" for index in range(40)]))
    named = unembedding.top(directions, 4)
    assert named is not None
    for direction, ends in zip(directions, named, strict=True):
        order = sorted(range(40), key=lambda index: float(rows[index].double() @ direction))
        assert ends == {
            "plus": [f"t{index}" for index in order[::-1][:4]],
            "minus": [f"t{index}" for index in order[:4]],
        }


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    unembedding = meaning.Unembedding(Embedded(rows=rows), tokenizer_of([f"t{index}" for index in range(40)]))
    whole = unembedding.top(torch.ones(1, 6), 40)
    monkeypatch.setattr(meaning, "CHUNK", 7)
    assert unembedding.top(torch.ones(1, 6), 40) == whole


def test_other_widths_have_no_tokens_and_few_tokens_are_all_there_are() -> None:
    unembedding = meaning.Unembedding(Embedded(rows=torch.eye(3)), tokenizer_of(["a", "b", "c"]))
    assert unembedding.top(torch.ones(2, 4), 2) is None
    named = unembedding.top(torch.tensor([[1.0, 3, 2]]), 10)
    assert named == [{"plus": ["b", "c", "a"], "minus": ["a", "c", "b"]}]


def test_rows_without_a_token_are_skipped() -> None:
    """Vocabularies are padded to a round number, and ids have gaps."""
    rows = torch.diag(torch.arange(1.0, 9))
    tokenizer = tokenizer_of(["a", "b", "c"])
    tokenizer.get_vocab = lambda: {"a": 0, "b": 2, "c": 5, "beyond": 8}
    unembedding = meaning.Unembedding(Embedded(rows=rows), tokenizer)
    assert unembedding.tokens == ["a", "b", "c"]
    assert unembedding.top(torch.ones(1, 8), 2) == [{"plus": ["c", "b"], "minus": ["a", "b"]}]
    tokenizer.get_vocab = lambda: {"beyond": 8}
    with pytest.raises(UsageError, match="no token for any row"):
        meaning.Unembedding(Embedded(rows=rows), tokenizer)


def test_byte_level_tokens_are_shown_as_text() -> None:
    tokens = ["<s>", "Ġthe", "Ċ", "ĠĠ", "Ã©", "Ã", "Ġ"]
    assert shown(tokens, decoders.ByteLevel()) == ["<s>", "␣the", "⏎", "␣␣", "é", "<0xC3>", "␣"]


def test_sentencepiece_tokens_are_shown_as_text() -> None:
    tokens = ["<s>", "▁the", "<0x0A>", "<0xE2>", "ing", "Ġ"]
    decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    assert shown(tokens, decoder) == ["<s>", "␣the", "⏎", "<0xE2>", "ing", "Ġ"]


def test_other_tokens_stay_and_what_hides_is_written_out() -> None:
    tokens = ["[UNK]", "##ing", "</script>", "a\tb", "\u202e", "\u200b", "\x07"]
    expected = ["[UNK]", "##ing", "</script>", "a⇥b", "\\u202e", "\\u200b", "\\x07"]
    assert shown(tokens, decoders.WordPiece()) == expected


@pytest.mark.parametrize("architecture", [LLAMA, QWEN3, GPT2, T5], ids=str)
def test_the_head_names_directions(architecture: Architecture, tokenizer: Any) -> None:
    model = architecture.build()
    assert meaning.has_head(model)
    head = model.get_submodule(architecture.head).weight
    assert (head is model.get_input_embeddings().weight) == architecture.tied
    unembedding = meaning.Unembedding(model, tokenizer)
    assert unembedding.width == WIDTH
    direction = head.detach().pinverse().T[11]
    assert torch.equal(meaning.unembedding_of(model), head)
    expected = int((head.detach() @ direction).argmax())
    named = unembedding.top(direction[None], 1)
    assert named is not None
    assert named[0]["plus"] == [WORDS[expected - 4]]


def test_an_encoder_is_named_by_its_embeddings() -> None:
    model = BERT.build()
    assert not meaning.has_head(model)
    assert torch.equal(meaning.unembedding_of(model), model.embeddings.word_embeddings.weight)
    assert len(meaning.unembedding_of(model)) == VOCABULARY


def test_a_model_with_neither_is_refused() -> None:
    class Nothing:
        def get_input_embeddings(self) -> Any:
            raise NotImplementedError

    with pytest.raises(UsageError, match="Nothing has neither a head nor embeddings"):
        meaning.unembedding_of(Nothing())


@pytest.mark.parametrize("architecture", [LLAMA, GPT2], ids=str)
def test_what_was_a_target_is_found_in_factors_too(architecture: Architecture) -> None:
    model = architecture.build()
    dense = find_targets(model).targets
    # One target in turn stays dense, and the others become the structures.
    kinds = [None, *SMALLER]
    for place, target in enumerate(dense):
        structure = kinds[place % len(kinds)]
        if structure is not None:
            put_fitted(model, target.name, structure, 5)
    before = dict(model.named_modules())
    assert meaning.find_weights(model).targets == dense
    some = meaning.find_weights(model, [dense[1].name.rpartition(".")[2]], "top:1").targets
    assert some
    assert set(some) < set(dense)
    assert all(".1." in target.name for target in some)
    with pytest.raises(UsageError, match="fits no linear layer"):
        meaning.find_weights(model, ["nothing_such"])
    assert dict(model.named_modules()) == before, "the model is left as it was"


def test_a_quantized_model_is_refused() -> None:
    config = SimpleNamespace(quantization_config={"quant_method": "gptq"})
    with pytest.raises(UsageError, match=r"quantized \(gptq\)"):
        meaning.refuse_quantized(config)
    meaning.refuse_quantized(SimpleNamespace(quantization_config={"quant_method": "eckart"}))
    with pytest.raises(UsageError, match="not a transformers model"):
        meaning.require_loaded(torch.nn.Linear(2, 2))
