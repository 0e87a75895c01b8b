"""The tokenizer and the packing: round trips, the seam behind a prompt, and training windows."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from eckart.pocket import SKILLS, samples
from eckart.pocket.packing import chunk
from eckart.pocket.tokenizer import VOCAB_SIZE, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(per_skill=800)


@pytest.mark.parametrize("skill", SKILLS)
def test_text_round_trips_and_has_one_tokenization_at_the_seam(
    skill: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    for sample in islice(samples(skill, "test", seed=1), 200):
        joint = tokenizer(sample.text)["input_ids"]
        prompt = tokenizer(sample.prompt)["input_ids"]
        rest = tokenizer(sample.completion, add_special_tokens=False)["input_ids"]
        assert prompt + rest == joint
        assert tokenizer.decode(joint, skip_special_tokens=True) == sample.text


def test_special_tokens_are_distinct_and_only_bos_is_added(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    special = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    assert len(special) == 3
    assert len(tokenizer) == VOCAB_SIZE
    ids = tokenizer("12 apples\n")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert not special & set(ids[1:])


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("1234", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([i]) for i in ids] == list("1234")


def _pad_start(ids: torch.Tensor) -> torch.Tensor:
    """Where the padding of a window begins."""
    padding = ids == 0
    before = torch.cat([torch.zeros_like(padding[:, :1]), padding[:, :-1]], dim=1)
    return padding & ~before


def test_documents_of_a_window_do_not_see_each_other(tokenizer: PreTrainedTokenizerFast) -> None:
    windows = chunk(tokenizer, "train", 60, 256, seed=2)
    mask = windows.mask()[0, 0]
    second = int((windows.ids[0] == tokenizer.bos_token_id).nonzero()[1])
    assert mask[second - 1, 0]
    assert not mask[second, :second].any()
    assert mask[second, second]
    assert not mask[0, 1]


def test_quoted_text_has_the_same_tokens_everywhere(tokenizer: PreTrainedTokenizerFast) -> None:
    # The model copies letters from a docstring into code: both must be the same tokens.
    def inner(text: str) -> list[str]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        pieces = [tokenizer.decode([i]) for i in ids]
        opening = next(at for at, piece in enumerate(pieces) if piece.endswith("'"))
        closing = next(at for at, piece in enumerate(pieces) if at > opening and "'" in piece)
        return pieces[opening + 1 : closing]

    for quoted in ("s", "t", "d", "m", "ckns"):
        assert inner(f"replace '{quoted}' by") == inner(f"text.replace('{quoted}', 'x')")


def test_windows_hold_whole_documents_and_are_reproducible(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    first = chunk(tokenizer, "train", 200, 256, seed=1)
    again = chunk(tokenizer, "train", 200, 256, seed=1)
    assert torch.equal(first.ids, again.ids)
    assert torch.equal(first.weight, again.weight)
    ids = first.ids
    assert (ids[:, 0] == tokenizer.bos_token_id).all()
    begins = (ids == tokenizer.bos_token_id).sum(1)
    assert torch.equal(begins, (ids == tokenizer.eos_token_id).sum(1))
    assert torch.equal(first.position == 0, (ids == tokenizer.bos_token_id) | _pad_start(ids))
    assert (first.weight[ids == tokenizer.pad_token_id] == 0).all()
    assert (ids != tokenizer.pad_token_id).float().mean() > 0.9
