"""STS-B: how well the cosine of two sentence embeddings orders pairs as people do."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from eckart.evaluation.score import Score
from eckart.linalg import wide_products
from eckart.model.sentences import head_of, longest
from eckart.model.text import encode, is_encoder_decoder, usable_length
from eckart.types import EckartError, Track, UsageError, silent

BATCH = 64


def stsb(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[tuple[float, str, str]],
    max_length: int = 256,
    track: Track = silent,
) -> Score:
    """Spearman correlation of the cosine between embeddings with the given scores.

    Args:
        pairs: `(score, sentence, sentence)`.
        max_length: tokens of a sentence at most.

    Raises:
        UsageError: a model without hidden states to pool, or pairs that have no order.
        EckartError: an embedding that is not finite.
    """
    if len({score for score, _, _ in pairs}) < 2:
        raise UsageError("the pairs need two scores that differ at least: there is no order to compare")
    sentences = list(dict.fromkeys(sentence for _, *both in pairs for sentence in both))
    embeddings = embed(model, tokenizer, sentences, max_length, track)
    row = {sentence: index for index, sentence in enumerate(sentences)}
    first = embeddings[[row[one] for _, one, _ in pairs]]
    second = embeddings[[row[other] for _, _, other in pairs]]
    cosines = torch.nn.functional.cosine_similarity(first, second)
    # It takes a second to import, and other tasks have no use for it.
    from scipy.stats import spearmanr

    value = float(spearmanr(cosines.numpy(), [score for score, _, _ in pairs]).statistic)
    # A model that finds all pairs equally similar has ordered none of them.
    return Score("stsb", "spearman", value if isfinite(value) else 0.0, {"pairs": len(pairs)})


@torch.no_grad()
def embed(
    model: Any, tokenizer: Any, sentences: Sequence[str], max_length: int = 256, track: Track = silent
) -> Tensor:
    """Embeddings as the model's user gets them, `(sentences, width)`, float32 on the CPU.

    The mean of the last hidden states over real tokens; of a folder of sentence-transformers what its own
    modules make of them, with its prompt and its longest text.
    """
    if is_encoder_decoder(model):
        raise UsageError(f"{type(model).__name__} reads and writes: stsb is for encoders")
    head = head_of(model, tokenizer)
    max_length = usable_length(model, tokenizer, min(max_length, longest(model) or max_length))
    if head is not None:
        sentences = [head.text(sentence) for sentence in sentences]
    order = sorted(range(len(sentences)), key=lambda index: -len(sentences[index]))
    pieces = [order[at : at + BATCH] for at in range(0, len(order), BATCH)]
    embeddings = None
    for piece in track(pieces, "embedding", len(pieces)):
        batch = encode(model, tokenizer, [sentences[index] for index in piece], max_length)
        with wide_products():
            answer = model(**batch)
        if not hasattr(answer, "last_hidden_state"):
            raise UsageError(f"{type(model).__name__} gives no hidden states to pool: stsb is for encoders")
        mask = batch["attention_mask"]
        if head is not None:
            pooled = head(answer.last_hidden_state, mask).float().cpu()
        else:
            weights, hidden = mask[..., None].float(), answer.last_hidden_state.float()
            pooled = ((hidden * weights).sum(1) / weights.sum(1)).cpu()
        if embeddings is None:
            embeddings = torch.empty(len(sentences), pooled.shape[1])
        embeddings[piece] = pooled
    assert embeddings is not None
    if not torch.isfinite(embeddings).all():
        raise EckartError("an embedding is not finite: the model is broken, or overflows in this dtype")
    return embeddings
