"""Prompts in, continuations out: batched, with a cache of keys and values, padded on the left."""

from __future__ import annotations

import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList

from eckart.linalg import wide_products
from eckart.model.text import begun, is_encoder_decoder, padded, padding_id, usable_length
from eckart.types import Track, UsageError, silent

BATCH = 16
"""Prompts at once unless told otherwise: the caches of so many fit beside most models."""

SPARE_TOKENS = 4
"""Decoded before those that matter: at the start of a text many tokenizers lose a space."""


@dataclass(frozen=True)
class Decoding:
    """How continuations are decoded.

    Attributes:
        max_new_tokens: of a continuation at most.
        stop: a row ends with the first of these, which is cut off.
        temperature: of the distribution to sample from; 0 takes the likeliest token.
        seed: of the samples; each batch has its own from it.
        max_length: tokens of prompt and continuation at most, where the model would take more. A longer
            prompt loses its beginning.
        batch_size: prompts at once.
    """

    max_new_tokens: int
    stop: Sequence[str] = ()
    temperature: float = 0.0
    seed: int = 0
    max_length: int = sys.maxsize
    batch_size: int = BATCH


@dataclass(frozen=True)
class Written:
    """What was written behind one prompt.

    Attributes:
        index: the prompt's place.
        text: without special tokens, up to the first stop string.
        ended: whether the model came to an end before it ran out of tokens.
        cut: whether the prompt was too long and lost its beginning.
    """

    index: int
    text: str
    ended: bool
    cut: bool


def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    track: Track = silent,
    batch_size: int = BATCH,
) -> list[str]:
    """Greedy continuations of the prompts, in their order, without special tokens; see `write`."""
    written = [""] * len(prompts)
    decoding = Decoding(max_new_tokens, batch_size=batch_size)
    for piece in write(model, tokenizer, prompts, decoding, track=track):
        for one in piece:
            written[one.index] = one.text
    return written


def write(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    decoding: Decoding,
    *,
    done: Container[int] = (),
    track: Track = silent,
) -> Iterator[list[Written]]:
    """Continuations of the prompts, batch by batch, the longest first.

    Prompts of similar length are padded together on the left, so that every row ends where writing
    begins. A batch does not depend on which others were written before, so that whoever goes on with an
    unfinished lot gets what an unbroken run would have given. Whatever the model's own generation config
    says, writing is greedy, or by samples of the whole distribution.

    Args:
        done: places of prompts that need nothing.

    Raises:
        UsageError: so many new tokens leave no room for a prompt.
    """
    both = is_encoder_decoder(model)
    longest = usable_length(model, tokenizer, decoding.max_length)
    max_new_tokens, batch_size, stop = decoding.max_new_tokens, decoding.batch_size, decoding.stop
    room = longest if both else longest - max_new_tokens
    if room < 1 or max_new_tokens > longest:
        raise UsageError(
            f"--max-new-tokens {max_new_tokens}: {longest} tokens, prompt and all, is what this model takes"
        )
    rows = [_ids(model, tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    pieces = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    left = [(at, piece) for at, piece in enumerate(pieces) if any(index not in done for index in piece)]
    for at, piece in track(left, "writing", len(left)):
        kept = [_shortened(rows[index], room, tokenizer) for index in piece]
        fresh = _continued(model, tokenizer, kept, decoding, decoding.seed + at * 1_000_003)
        texts = [_text(tokenizer, [] if both else ids, new) for ids, new in zip(kept, fresh, strict=True)]
        ends = _ends(model, tokenizer)
        yield [
            Written(
                index,
                until(text, stop),
                until(text, stop) != text or bool(torch.isin(ids, ends).any()),
                len(rows[index]) > room,
            )
            for index, text, ids in zip(piece, texts, fresh, strict=True)
            if index not in done
        ]


def until(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    found = [text.find(word) for word in stop if word in text]
    return text[: min(found)] if found else text


def _ids(model: Any, tokenizer: Any, prompt: str) -> list[int]:
    ids: list[int] = tokenizer(prompt)["input_ids"]
    if is_encoder_decoder(model):
        return ids
    # As in training, where what is answered follows: a tokenizer's end does not.
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        ids = ids[:-1]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    return begun(tokenizer, ids) or [start or 0]


def _shortened(ids: list[int], room: int, tokenizer: Any) -> list[int]:
    """The last ids, behind the first one where that is the token that a text starts with."""
    if len(ids) <= room:
        return ids
    begins = room > 1 and ids[0] == tokenizer.bos_token_id
    return [ids[0], *ids[1 - room :]] if begins else ids[-room:]


@torch.no_grad()
def _continued(
    model: Any,
    tokenizer: Any,
    rows: list[list[int]],
    decoding: Decoding,
    seed: int,
) -> Tensor:
    """The new ids, `(rows, at most max_new_tokens)`."""
    batch = padded(model, tokenizer, rows, left=True)
    start = 1 if is_encoder_decoder(model) else batch["input_ids"].shape[1]
    how: dict[str, Any] = {"do_sample": False}
    if decoding.temperature > 0:
        how = {"do_sample": True, "temperature": decoding.temperature, "top_k": 0, "top_p": 1.0}
    if decoding.stop:
        how["stopping_criteria"] = StoppingCriteriaList([_Stop(tokenizer, decoding.stop, start)])
    cuda = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(cuda), wide_products():
        torch.manual_seed(seed)
        tokens: Tensor = model.generate(
            **batch,
            max_new_tokens=decoding.max_new_tokens,
            num_beams=1,
            use_cache=True,
            pad_token_id=padding_id(tokenizer),
            **how,
        )
    return tokens[:, start:]


def _text(tokenizer: Any, prompt: list[int], fresh: Tensor) -> str:
    """The new text. Behind the prompt's end: at the start of a text many tokenizers lose a space."""
    before = prompt[-SPARE_TOKENS:]
    beginning, whole = (
        tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for ids in (before, [*before, *fresh.tolist()])
    )
    # Where the prompt ends within a character, the two are apart.
    if not whole.startswith(beginning):
        return str(tokenizer.decode(fresh, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return str(whole[len(beginning) :])


def _ends(model: Any, tokenizer: Any) -> Tensor:
    """The ids that end a text."""
    own = model.generation_config.eos_token_id
    ids = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])} - {None}
    return torch.tensor(sorted(ids), device=model.device, dtype=torch.long)


class _Stop(StoppingCriteria):
    """Ends a row as soon as the end of its text holds a stop string.

    The text is looked at, not the tokens: one string can be spelt by many of them.
    """

    def __init__(self, tokenizer: Any, stop: Sequence[str], start: int) -> None:
        self.tokenizer, self.stop, self.start = tokenizer, stop, start
        # A token has one byte of it at least.
        self.tail = max(len(word.encode()) for word in stop) + SPARE_TOKENS

    def __call__(self, input_ids: Tensor, scores: Any, **more: Any) -> Tensor:
        tails = input_ids[:, max(self.start, input_ids.shape[1] - self.tail) :]
        texts = self.tokenizer.batch_decode(tails, skip_special_tokens=True)
        found = [any(word in text for word in self.stop) for text in texts]
        return torch.tensor(found, device=input_ids.device)
