"""STS-B: how well the cosine of two sentence embeddings orders pairs as people do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor

from eckart.evaluation.score import Score
from eckart.types import EckartError, Track, UsageError, silent

BATCH = 64


def stsb(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[float, str, str]],
    max_length: int = 256,
    track: Track = silent,
) -> Score:
    """Spearman correlation of the cosine between mean-pooled embeddings with the given scores.

    Args:
        pairs: `(score, sentence, sentence)`.
        max_length: tokens of a sentence at most.

    Raises:
        UsageError: a model without hidden states to pool.
        EckartError: an embedding that is not finite.
    """
    sentences = list(dict.fromkeys(sentence for _, *both in pairs for sentence in both))
    embeddings = embed(model, tokenizer, sentences, max_length, track)
    row = {sentence: index for index, sentence in enumerate(sentences)}
    first = embeddings[[row[one] for _, one, _ in pairs]]
    second = embeddings[[row[other] for _, _, other in pairs]]
    cosines = torch.nn.functional.cosine_similarity(first, second)
    value = spearmanr(cosines.numpy(), [score for score, _, _ in pairs]).statistic
    return Score("stsb", "spearman", float(value), {"pairs": len(pairs)})


@torch.no_grad()
def embed(
    model: Any, tokenizer: Any, sentences: Sequence[str], max_length: int = 256, track: Track = silent
) -> Tensor:
    """Mean of the last hidden states over real tokens, `(sentences, width)`, float32 on the CPU."""
    order = sorted(range(len(sentences)), key=lambda index: -len(sentences[index]))
    pieces = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    embeddings = None
    for piece in track(pieces, "embedding", len(pieces)):
        batch = tokenizer(
            [sentences[index] for index in piece],
            padding=True,
            truncation=True,
            max_length=max_length,
            return_tensors="pt",
        ).to(model.device)
        answer = model(**batch)
        if not hasattr(answer, "last_hidden_state"):
            raise UsageError(f"{type(model).__name__} gives no hidden states to pool: stsb is for encoders")
        mask = batch["attention_mask"][..., None].float()
        hidden = answer.last_hidden_state.float()
        pooled = ((hidden * mask).sum(1) / mask.sum(1)).cpu()
        if embeddings is None:
            embeddings = torch.empty(len(sentences), pooled.shape[1])
        embeddings[piece] = pooled
    assert embeddings is not None
    if not torch.isfinite(embeddings).all():
        raise EckartError("an embedding is not finite: the model is broken, or overflows in this dtype")
    return embeddings
