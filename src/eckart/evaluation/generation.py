"""Prompts in, continuations out: batched, greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from eckart.model.text import encode, is_encoder_decoder, padding_id
from eckart.types import Track, silent

BATCH = 100


@torch.no_grad()
def generate(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_new_tokens: int,
    track: Track = silent,
    batch_size: int = BATCH,
) -> list[str]:
    """Greedy continuations of the prompts, in their order, without special tokens.

    Prompts of similar length are padded together on the left, so that every row ends where writing
    begins. Greedy also where the model's own generation config asks for sampling or beams.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    pieces = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    written = [""] * len(prompts)
    for piece in track(pieces, "writing", len(pieces)):
        batch = encode(model, tokenizer, [prompts[index] for index in piece], left=True)
        tokens = model.generate(
            **batch,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=padding_id(tokenizer),
        )
        fresh = tokens if is_encoder_decoder(model) else tokens[:, batch["input_ids"].shape[1] :]
        for index, text in zip(piece, tokenizer.batch_decode(fresh, skip_special_tokens=True), strict=True):
            written[index] = text
    return written
