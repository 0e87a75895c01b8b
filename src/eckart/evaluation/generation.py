"""Prompts in, continuations out: batched, greedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

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
    begins.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    pieces = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]
    written = [""] * len(prompts)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    for piece in track(pieces, "writing", len(pieces)):
        batch = tokenizer(
            [prompts[index] for index in piece],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(model.device)
        tokens = model.generate(**batch, max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad)
        fresh = tokens if model.config.is_encoder_decoder else tokens[:, batch["input_ids"].shape[1] :]
        for index, text in zip(piece, tokenizer.batch_decode(fresh, skip_special_tokens=True), strict=True):
            written[index] = text
    return written
