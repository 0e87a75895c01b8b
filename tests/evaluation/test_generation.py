"""Writing in batches: the same as one prompt at a time, and greedy whatever the model's own settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from architectures import GPT2, LLAMA, POSITIONS, SPECIAL, T5, WORDS, Architecture, tiny_tokenizer

from eckart.evaluation.generation import Decoding, Written, generate, until
from eckart.evaluation.generation import write as continued
from eckart.types import UsageError


@pytest.fixture
def tokenizer() -> Any:
    """One that begins every text with BOS."""
    return tiny_tokenizer(bos=True)


NEW_TOKENS = 8
LENGTHS = [3, 17, 1, 9, 9, 50, 2, 14]
PROMPTS = [" ".join(WORDS[start : start + length]) for start, length in enumerate(LENGTHS)]
WRITERS = pytest.mark.parametrize("architecture", [GPT2, LLAMA, T5], ids=str)


def one_at_a_time(model: Any, tokenizer: Any, prompts: list[str]) -> list[str]:
    """By transformers' own `generate`, each prompt alone and unpadded."""
    written = []
    for prompt in prompts:
        start = [] if model.config.is_encoder_decoder else [tokenizer.bos_token_id]
        ids = torch.tensor([start + tokenizer(prompt)["input_ids"]])
        tokens = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
        )
        fresh = tokens[0] if model.config.is_encoder_decoder else tokens[0, ids.shape[1] :]
        text = tokenizer.decode(fresh, skip_special_tokens=True)
        written.append(f" {text}" if text and start else text)
    return written


@WRITERS
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_write_what_single_prompts_do_in_their_order(
    architecture: Architecture, tokenizer: Any, batch_size: int
) -> None:
    model = architecture.build()
    expected = one_at_a_time(model, tokenizer, PROMPTS)
    assert len(set(expected)) > len(PROMPTS) // 2
    assert generate(model, tokenizer, PROMPTS, NEW_TOKENS, batch_size=batch_size) == expected
    assert generate(model, tokenizer, PROMPTS[::-1], NEW_TOKENS, batch_size=batch_size) == expected[::-1]


@WRITERS
def test_a_tokenizer_needs_no_padding_token(architecture: Architecture, tokenizer: Any) -> None:
    model, bare = architecture.build(), tiny_tokenizer(bos=True)
    bare.pad_token = None
    assert generate(model, bare, PROMPTS, NEW_TOKENS) == generate(model, tokenizer, PROMPTS, NEW_TOKENS)


@WRITERS
def test_writing_is_greedy_whatever_the_model_asks_for(architecture: Architecture, tokenizer: Any) -> None:
    model = architecture.build()
    expected = generate(model, tokenizer, PROMPTS, NEW_TOKENS)
    model.generation_config.update(do_sample=True, temperature=5.0, num_beams=4)
    assert generate(model, tokenizer, PROMPTS, NEW_TOKENS) == expected


@WRITERS
def test_only_what_is_new_is_given_back_without_special_tokens(
    architecture: Architecture, tokenizer: Any
) -> None:
    written = generate(architecture.build(), tokenizer, PROMPTS, NEW_TOKENS)
    for text, prompt in zip(written, PROMPTS, strict=True):
        assert len(text.split()) <= NEW_TOKENS
        assert not set(SPECIAL) & set(text.split())
        assert not (len(prompt.split()) > NEW_TOKENS and text.startswith(prompt))
    assert any(written)


def test_no_prompts_give_no_texts(tokenizer: Any) -> None:
    assert generate(LLAMA.build(), tokenizer, [], NEW_TOKENS) == []


def write(model: Any, tokenizer: Any, prompts: Any, most: int, done: Any = (), **how: Any) -> Any:
    """Continuations in one line."""
    return continued(model, tokenizer, prompts, Decoding(most, **how), done=done)


def flat(pieces: Iterable[list[Written]]) -> dict[int, Written]:
    return {one.index: one for piece in pieces for one in piece}


@WRITERS
def test_a_stop_string_ends_a_text_and_its_row(architecture: Architecture, tokenizer: Any) -> None:
    model = architecture.build()
    whole = generate(model, tokenizer, PROMPTS, 20)
    stop = whole[0].split()[-1]
    steps = []
    model.register_forward_hook(lambda *_: steps.append(1))
    found = flat(write(model, tokenizer, PROMPTS[:1], 20, stop=(stop,)))
    assert len(steps) == whole[0].split().index(stop) + 1 < 20
    assert found[0].text == until(whole[0], (stop,))
    assert found[0].ended
    found = flat(write(model, tokenizer, PROMPTS, 20, stop=(stop,), batch_size=3))
    assert [found[index].text for index in range(len(PROMPTS))] == [until(text, (stop,)) for text in whole]


@pytest.mark.parametrize(
    ("text", "stop", "left"),
    [
        ("a b c", ("b",), "a "),
        ("a b c", ("c", "b"), "a "),
        ("a", ("b",), "a"),
        ("a", (), "a"),
        ("", ("b",), ""),
    ],
)
def test_a_text_is_cut_at_the_first_stop_string(text: str, stop: tuple[str, ...], left: str) -> None:
    assert until(text, stop) == left


def test_a_text_that_ran_out_of_tokens_did_not_end(tokenizer: Any) -> None:
    model = LLAMA.build()
    found = flat(write(model, tokenizer, PROMPTS, 3))
    assert [one.ended for one in found.values()] == [len(one.text.split()) < 3 for one in found.values()]
    assert not all(one.ended for one in found.values())
    model.generation_config.eos_token_id = list(range(96))
    found = flat(write(model, tokenizer, PROMPTS, 3))
    assert all(one.ended for one in found.values())


@WRITERS
def test_a_prompt_that_is_too_long_loses_its_beginning(architecture: Architecture, tokenizer: Any) -> None:
    model = architecture.build()
    both = model.config.is_encoder_decoder
    room = POSITIONS if both else POSITIONS - NEW_TOKENS
    long = [WORDS[index % len(WORDS)] for index in range(300)]
    found = flat(write(model, tokenizer, [" ".join(long), "w1 w2"], NEW_TOKENS))
    assert (found[0].cut, found[1].cut) == (True, False)
    # The token that a text starts with stays.
    kept = " ".join(long[-room:] if both else long[1 - room :])
    assert found[0].text == flat(write(model, tokenizer, [kept], NEW_TOKENS))[0].text
    shorter = flat(write(model, tokenizer, [" ".join(long)], NEW_TOKENS, max_length=30))
    kept = " ".join(long[-30:] if both else long[1 - (30 - NEW_TOKENS) :])
    assert shorter[0].text == flat(write(model, tokenizer, [kept], NEW_TOKENS))[0].text


def test_no_room_for_a_prompt_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match=f"--max-new-tokens {POSITIONS}: {POSITIONS} tokens, prompt and all"):
        list(write(LLAMA.build(), tokenizer, PROMPTS, POSITIONS))


@WRITERS
def test_samples_come_from_their_seed_and_not_from_what_was_done_before(
    architecture: Architecture, tokenizer: Any
) -> None:
    model = architecture.build()
    options: dict[str, Any] = {"temperature": 5.0, "batch_size": 3}
    whole = flat(write(model, tokenizer, PROMPTS, NEW_TOKENS, seed=1, **options))
    assert flat(write(model, tokenizer, PROMPTS, NEW_TOKENS, seed=1, **options)) == whole
    assert flat(write(model, tokenizer, PROMPTS, NEW_TOKENS, seed=2, **options)) != whole
    assert [whole[index].text for index in range(len(PROMPTS))] != generate(
        model, tokenizer, PROMPTS, NEW_TOKENS
    )
    first = next(iter(write(model, tokenizer, PROMPTS, NEW_TOKENS, seed=1, **options)))
    # Also where a run was killed between two answers of a batch.
    done = {first[0].index: first[0], first[1].index: first[1]}
    rest = flat(write(model, tokenizer, PROMPTS, NEW_TOKENS, seed=1, done=done, **options))
    assert set(rest) == set(whole) - set(done)
    assert {**done, **rest} == whole


def test_sampling_leaves_the_generator_of_others_alone(tokenizer: Any) -> None:
    model = LLAMA.build()
    before = torch.random.get_rng_state()
    flat(write(model, tokenizer, PROMPTS, NEW_TOKENS, temperature=1.0))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_each_batch_draws_by_itself(tokenizer: Any) -> None:
    found = flat(write(LLAMA.build(), tokenizer, ["w1 w2"] * 3, NEW_TOKENS, temperature=5.0, batch_size=1))
    assert len({one.text for one in found.values()}) == 3
