"""What a model learns from: the tokens with a loss, what is cut and left out, and how it is batched."""

from __future__ import annotations

import pytest
import torch
from architectures import BERT, LLAMA, POSITIONS, T5
from learners import TOKENIZER, cut

from eckart.recovery import windows
from eckart.recovery.objective import cross_entropy
from eckart.types import EckartError, Text

END = TOKENIZER.eos_token_id
BEGIN = TOKENIZER.bos_token_id


def words(count: int, first: int = 0) -> str:
    return " ".join(f"w{(first + at) % 92}" for at in range(count))


def ids(text: str) -> list[int]:
    found: list[int] = TOKENIZER(text)["input_ids"]
    return found


def test_a_decoder_learns_the_completion_and_where_it_ends() -> None:
    model = cut(LLAMA)
    (row,) = windows.read(model, TOKENIZER, [Text("w1 w2 ", "w3 w4")], 64).rows
    assert list(row.ids) == [BEGIN, *ids("w1 w2 w3 w4"), END]
    assert row.start == 3
    batch = windows.Collator(model, 0)([row])
    assert batch["labels"].tolist() == [[-100, -100, -100, *ids("w3 w4"), END]]
    (row,) = windows.read(model, TOKENIZER, [Text("w1 w2 ", "w3 w4")], 64, end=False).rows
    assert list(row.ids) == [BEGIN, *ids("w1 w2 w3 w4")]


def test_plain_text_is_learned_whole_in_as_many_windows_as_it_needs() -> None:
    found = windows.read(cut(LLAMA), TOKENIZER, [Text("", words(100)), Text("", "w7 w8")], 40)
    assert [len(row.ids) for row in found.rows] == [40, 40, 21, 3]
    assert all(row.start == 0 for row in found.rows)
    assert list(found.rows[1].ids) == ids(words(100))[39:79]
    assert found.notes == ["1 texts were longer than 40 tokens and were cut into several windows"]


def test_what_is_longer_than_the_model_is_cut_or_left_out_and_counted() -> None:
    texts = [
        Text(words(10) + " ", words(10)),
        Text(words(40) + " ", words(40)),
        Text(words(POSITIONS + 5) + " ", words(10)),
        Text(words(5) + " ", ""),
    ]
    found = windows.read(cut(LLAMA), TOKENIZER, texts, 10_000)
    assert found.length == POSITIONS
    assert [len(row.ids) for row in found.rows] == [22, POSITIONS]
    assert found.rows[1].start == 41
    assert (found.cut, found.left_out, found.pieces) == (2, 2, 0)
    assert any("2 texts were longer than 64" in note for note in found.notes)


def test_nothing_to_learn_is_an_error() -> None:
    with pytest.raises(EckartError, match="nothing to learn"):
        windows.read(cut(LLAMA), TOKENIZER, [Text(words(99) + " ", "w1")], 50)


def test_an_encoder_decoder_reads_the_prompt_and_writes_the_completion() -> None:
    model = cut(T5)
    (row,) = windows.read(model, TOKENIZER, [Text("w1 w2 ", "w3 w4")], 64).rows
    batch = windows.Collator(model, 0)([row])
    assert batch["input_ids"].tolist() == [ids("w1 w2")]
    assert batch["labels"].tolist() == [[*ids("w3 w4"), END]]
    assert batch["decoder_input_ids"].tolist() == [[0, *ids("w3 w4")]]


def test_an_encoder_only_reads() -> None:
    model = BERT.build()
    found = windows.read(model, TOKENIZER, [Text("", words(90)), Text("", "w5")], 64)
    batch = windows.Collator(model, 0)(found.rows)
    assert set(batch) == {"input_ids", "attention_mask"}
    assert batch["attention_mask"].sum(1).tolist() == [64, 1]
    assert found.cut == 1


def test_the_loss_is_the_completions_alone() -> None:
    """Against the log-likelihoods by hand, one row at a time and without padding."""
    model = cut(LLAMA)
    texts = [Text("w1 w2 ", "w3 w4 w5"), Text("w9 ", "w8"), Text("", "w1 w2 w3")]
    rows = windows.read(model, TOKENIZER, texts, 64).rows
    expected, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            logits = model(input_ids=torch.tensor([list(row.ids)])).logits[0].log_softmax(-1)
            for at in range(max(row.start, 1), len(row.ids)):
                expected -= logits[at - 1, row.ids[at]].item()
                count += 1
        loss, counted = cross_entropy(model, None, windows.Collator(model, 0)(rows))
    assert counted == count == 4 + 2 + 3
    assert loss.item() == pytest.approx(expected, rel=1e-5)
