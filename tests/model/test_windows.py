"""Texts into windows and batches: what each kind of model reads, and that masks tell padding from text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers
from architectures import BERT, LLAMA, POSITIONS, SPECIAL, T5, WORDS, tiny_tokenizer

from eckart.model.text import Window, batches, is_causal, is_encoder_decoder, usable_length, windows
from eckart.types import EckartError, Text


@pytest.fixture
def tokenizer() -> Any:
    """One that begins every text with BOS."""
    return tiny_tokenizer(bos=True)


BOS = SPECIAL.index("<s>")
PAD = SPECIAL.index("<pad>")


def ids(text):
    return [len(SPECIAL) + WORDS.index(word) for word in text.split()]


def words(count, start=0):
    return " ".join(WORDS[(start + index) % len(WORDS)] for index in range(count))


@pytest.fixture(scope="module")
def models():
    return {architecture.kind: architecture.build() for architecture in (LLAMA, BERT, T5)}


def test_the_kinds_of_models_are_told_apart(models):
    assert {kind for kind, model in models.items() if is_causal(model)} == {"decoder"}
    assert {kind for kind, model in models.items() if is_encoder_decoder(model)} == {"encoder-decoder"}


def test_an_encoder_decoders_encoder_alone_is_an_encoder():
    config = T5.build().config.to_dict() | {"model_type": "umt5"}
    alone = transformers.UMT5EncoderModel(transformers.UMT5Config.from_dict(config))
    assert alone.config.is_encoder_decoder
    assert not is_encoder_decoder(alone)


def test_a_decoder_reads_prompt_and_completion_from_its_first_token(models, tokenizer):
    cut = windows(models["decoder"], tokenizer, [Text("w1 w2 ", "w3"), Text("", "w4 w5")], 16)
    assert cut == [Window([BOS, *ids("w1 w2 w3")]), Window([BOS, *ids("w4 w5")])]


def test_an_encoder_reads_the_text_as_its_tokenizer_gives_it(models, tokenizer):
    assert windows(models["encoder"], tokenizer, [Text("w1 ", "w2")], 16) == [Window(ids("w1 w2"))]


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_completion(models, tokenizer):
    cut = windows(models["encoder-decoder"], tokenizer, [Text("w1 w2", "w3"), Text("", "w4")], 16)
    assert cut == [Window(ids("w1 w2"), ids("w3")), Window(ids("w4"), ids("w4"))]


def test_one_long_text_is_read_to_its_end_by_a_decoder(models, tokenizer):
    cut = windows(models["decoder"], tokenizer, [Text("", words(50))], 16)
    assert [len(window.ids) for window in cut] == [16, 16, 16, 3]
    assert [token for window in cut for token in window.ids] == [BOS, *ids(words(50))]


def test_of_many_texts_each_gives_its_first_window(models, tokenizer):
    cut = windows(models["decoder"], tokenizer, [Text("", words(50)), Text("", words(5))], 16)
    assert [len(window.ids) for window in cut] == [16, 6]


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder-decoder"])
def test_windows_are_cut_at_what_the_model_can_take(models, tokenizer, kind):
    cut = windows(models[kind], tokenizer, [Text(words(90), words(90)), Text("", "w1")], 10_000)
    assert len(cut[0].ids) == POSITIONS
    assert usable_length(models[kind], tokenizer, 7) == 7


def test_no_more_windows_than_asked_for(models, tokenizer):
    texts = [Text("", words(3, start)) for start in range(9)]
    assert windows(models["decoder"], tokenizer, texts, 16, limit=4) == windows(
        models["decoder"], tokenizer, texts[:4], 16
    )
    assert len(windows(models["decoder"], tokenizer, [Text("", words(90))], 8, limit=3)) == 3


@pytest.mark.parametrize("kind", ["decoder", "encoder", "encoder-decoder"])
def test_data_without_tokens_is_an_error(models, tokenizer, kind):
    with pytest.raises(EckartError, match="no tokens"):
        windows(models[kind], tokenizer, [Text("", ""), Text("", "")], 16)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
@pytest.mark.parametrize("batch_tokens", [1, 20, 1000])
def test_batches_hold_each_window_once_and_mask_the_rest(models, tokenizer, kind, batch_tokens):
    cut = [Window(ids(words(count, count))) for count in (3, 9, 1, 5, 9)]
    made = batches(models[kind], tokenizer, cut, batch_tokens)
    rows = [
        row[mask.bool()].tolist()
        for batch in made
        for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
    ]
    assert sorted(rows) == sorted(window.ids for window in cut)
    for batch in made:
        assert (batch["input_ids"][batch["attention_mask"] == 0] == PAD).all()
        # Padding is on the right: positions count from the first token.
        assert (batch["attention_mask"].diff(dim=1) <= 0).all()
        assert batch["input_ids"].numel() <= max(batch_tokens, batch["input_ids"].shape[1])


def test_a_decoder_of_two_starts_with_its_start_token_and_reads_all_labels_but_the_last(models, tokenizer):
    cut = [Window(ids("w1 w2 w3"), ids("w4 w5")), Window(ids("w6"), ids("w7 w8 w9"))]
    (batch,) = batches(models["encoder-decoder"], tokenizer, cut)
    start = models["encoder-decoder"].config.decoder_start_token_id
    assert batch["decoder_input_ids"][1].tolist()[:3] == [start, *ids("w7 w8")]
    assert batch["labels"][0].tolist()[:3] == [*ids("w4 w5"), -100]
    assert batch["decoder_attention_mask"].sum(1).tolist() == [2, 3]
    assert ((batch["labels"] == -100) == (batch["decoder_attention_mask"] == 0)).all()


def test_an_encoders_and_a_decoders_mask_never_have_one_shape(models, tokenizer):
    cut = [Window(ids(words(4)), ids(words(4, 9))), Window(ids(words(2)), ids(words(3, 9)))]
    (batch,) = batches(models["encoder-decoder"], tokenizer, cut)
    assert batch["attention_mask"].shape != batch["decoder_attention_mask"].shape
    assert int(batch["decoder_attention_mask"].sum()) == 7


def test_a_tokenizer_without_padding_pads_with_what_it_has(models, tokenizer):
    bare = copy.deepcopy(tokenizer)
    bare.pad_token = None
    (batch,) = batches(models["decoder"], bare, [Window(ids("w1 w2")), Window(ids("w3"))])
    assert batch["input_ids"][1].tolist() == [*ids("w3"), bare.eos_token_id]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["input_ids"].dtype == torch.long
