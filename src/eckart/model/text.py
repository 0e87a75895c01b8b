"""Text into batches of token ids: windows, padding and masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from eckart.model import chats
from eckart.types import EckartError, Text

Batch = dict[str, Tensor]

SAID = "said"
"""Of a batch, what the assistant says in it."""

IGNORED = -100
"""What no label is, in the convention of PyTorch and transformers."""


@dataclass(frozen=True)
class Window:
    """Token ids of one window: what the model reads and, for an encoder-decoder, what it should write.

    Attributes:
        said: of a chat whose answers alone count, 1 for each of `ids` that the assistant says.
    """

    ids: list[int]
    labels: list[int] | None = None
    said: list[int] | None = None


def usable_length(model: Any, tokenizer: Any, max_length: int) -> int:
    """`max_length`, or less where the model or the tokenizer cannot take that many positions."""
    limits = [max_length]
    for owner, attribute in (
        (model.config.get_text_config(), "max_position_embeddings"),
        (tokenizer, "model_max_length"),
    ):
        limit = getattr(owner, attribute, None)
        if isinstance(limit, int) and 0 < limit < 10**9:
            limits.append(limit)
    return min(limits)


def windows(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    max_length: int,
    limit: int | None = None,
    least_tokens: int = 0,
) -> list[Window]:
    """Cut texts into windows of at most `max_length` tokens.

    Each text is a window, with the tokenizer's own special tokens, cut at `max_length`. A decoder that is
    given one long text (a whole book, WikiText) reads all of it, window after window. An encoder-decoder
    reads the prompt and writes the completion; plain text it reads and writes. One with nothing to write
    is left out.

    Args:
        limit: stop at this many windows; default all.
        least_tokens: go on beyond `limit` until there are this many tokens.

    Raises:
        EckartError: no text gives a token.
    """
    found = taken(stream(model, tokenizer, texts, max_length), limit, least_tokens)
    require_readable(model, tokenizer, found)
    return found


def require_readable(model: Any, tokenizer: Any, found: Sequence[Window]) -> None:
    """Raises EckartError where there are no windows, or one has a token that the model does not know."""
    if not found:
        raise EckartError("the data gives no tokens: every text in it is empty")
    require_known(model, tokenizer, (window.ids + (window.labels or []) for window in found))


def taken(stream: Iterator[Window], limit: int | None = None, least_tokens: int = 0) -> list[Window]:
    """The next windows of a stream, as `windows` counts them; it can be gone on with."""
    found: list[Window] = []
    tokens = 0
    for window in stream:
        found.append(window)
        tokens += len(window.ids)
        if limit is not None and len(found) >= limit and tokens >= least_tokens:
            break
    return found


def stream(model: Any, tokenizer: Any, texts: Sequence[Text], max_length: int) -> Iterator[Window]:
    """All windows of texts, one after another, as `windows` cuts them."""
    yield from _windows(model, tokenizer, texts, usable_length(model, tokenizer, max_length))


def require_known(model: Any, tokenizer: Any, rows: Iterable[list[int]]) -> None:
    """Raises EckartError where a row has a token id that the model's embedding does not."""
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    highest = max((max(row) for row in rows if row), default=0)
    if known is not None and highest >= known:
        name = tokenizer.convert_ids_to_tokens(highest)
        raise EckartError(
            f"the tokenizer makes token {highest} ({name!r}) of the data, and the embedding of "
            f"{type(model).__name__} has {known:,}: the tokenizer is not this model's, or was given tokens "
            "that the model was not"
        )


def _windows(model: Any, tokenizer: Any, texts: Sequence[Text], max_length: int) -> Iterator[Window]:
    for each in texts:
        text = chats.rendered(tokenizer, each) if model.can_generate() else each
        if is_encoder_decoder(model):
            read = text.prompt or text.completion
            ids = tokenizer(read, truncation=True, max_length=max_length)["input_ids"]
            labels = tokenizer(text.completion, truncation=True, max_length=max_length)["input_ids"]
            if ids and labels:
                yield Window(ids, labels)
        elif is_causal(model):
            pieces = _pieces(tokenizer, text, max_length)
            yield from (piece for piece in (pieces if len(texts) == 1 else pieces[:1]) if piece.ids)
        elif ids := tokenizer(text.text, truncation=True, max_length=max_length)["input_ids"]:
            yield Window(ids)


def batches(
    model: Any, tokenizer: Any, cut: Sequence[Window], batch_tokens: int = 8192, said: bool = False
) -> list[Batch]:
    """Pad windows of similar length together, on the right, in batches of about `batch_tokens` tokens.

    Args:
        said: with a mask `SAID` of what the assistant says, where that alone counts of all windows: it is for
            the loss, and no argument of the model.

    An encoder's and a decoder's ids in one batch never have the same length, so that a mask is known by
    its shape alone.
    """
    pad = padding_id(tokenizer)
    order = sorted(range(len(cut)), key=lambda index: -len(cut[index].ids))
    groups: list[list[Window]] = []
    for index in order:
        longest = len(groups[-1][0].ids) if groups else 0
        if not groups or (len(groups[-1]) + 1) * longest > batch_tokens:
            groups.append([])
        groups[-1].append(cut[index])
    made = [collate(model, group, pad) for group in groups]
    if said and answers(cut):
        for batch, group in zip(made, groups, strict=True):
            batch[SAID] = _padded([window.said or [] for window in group], 0)[0]
    return made


def counts(window: Window) -> bool:
    """Whether a decoder is asked for anything in a window: of a chat the assistant says something in it."""
    return window.said is None or any(window.said[1:])


def answers(cut: Sequence[Window]) -> bool:
    """Whether all windows are of chats whose answers alone count."""
    return all(window.said is not None for window in cut)


def encode(
    model: Any, tokenizer: Any, pieces: Sequence[str], max_length: int | None = None, left: bool = False
) -> Batch:
    """One batch of pieces of text as the tokenizer makes them, padded on the right, or on the left.

    A tokenizer needs no padding token for that.

    Args:
        max_length: cut there; default no cut.
    """
    cut = {} if max_length is None else {"truncation": True, "max_length": max_length}
    return padded(model, tokenizer, tokenizer(list(pieces), **cut)["input_ids"], left)


def padded(model: Any, tokenizer: Any, rows: list[list[int]], left: bool = False) -> Batch:
    """One batch of rows of token ids, on the model's device."""
    require_known(model, tokenizer, rows)
    ids, mask = _padded(rows, padding_id(tokenizer), left=left)
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def padding_id(tokenizer: Any) -> int:
    """What to fill rows up with. It is masked, so any id does where the tokenizer has none for it."""
    pad = tokenizer.pad_token_id
    return int((tokenizer.eos_token_id or 0) if pad is None else pad)


def is_causal(model: Any) -> bool:
    """Whether the model predicts the next token: it generates and has no encoder."""
    return bool(model.can_generate()) and not is_encoder_decoder(model)


def is_encoder_decoder(model: Any) -> bool:
    """Whether the model reads one text and writes another. T5's encoder alone has the config of one."""
    return model.config.is_encoder_decoder and "decoder_input_ids" in signature(model.forward).parameters


def aimed(model: Any, labels: Tensor) -> Tensor:
    """Labels, each at the place of the logits that should say it: those of a decoder one place earlier."""
    return nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED) if is_causal(model) else labels


def next_tokens(ids: Tensor, real: Tensor) -> Tensor:
    """What follows each real token, all `(windows, positions)`; `IGNORED` where nothing does.

    Args:
        real: where tokens are no padding, bool.
    """
    labels = nn.functional.pad(ids.masked_fill(~real, IGNORED)[:, 1:], (0, 1), value=IGNORED)
    return labels.masked_fill(~real, IGNORED)


def told(batch: Batch) -> Batch:
    """What of a batch is for the model: labels, and what the assistant says, are for the loss alone."""
    return {name: value for name, value in batch.items() if name not in ("labels", SAID)}


def saying(said: Tensor) -> Tensor:
    """Where a decoder says the tokens of a mask `(windows, positions)`, bool: one position earlier."""
    return nn.functional.pad(said[:, 1:].bool(), (0, 1))


def begin(tokenizer: Any, bos: bool | None) -> None:
    """Have `begun` put the BOS token before every text, or none; `None` as the tokenizer does by itself."""
    tokenizer.begins_with_bos = bos


def begins(model: Any, tokenizer: Any) -> bool | None:
    """Whether the BOS token stands before every text of a decoder; `None` of other models."""
    if not is_causal(model):
        return None
    return begun(tokenizer, tokenizer("a")["input_ids"])[:1] == [tokenizer.bos_token_id]


def begun(tokenizer: Any, ids: list[int]) -> list[int]:
    """Token ids of a text as `begin` asked for it."""
    asked, start = getattr(tokenizer, "begins_with_bos", None), tokenizer.bos_token_id
    if asked is None or start is None or not ids or (ids[0] == start) == asked:
        return ids
    return [start, *ids] if asked else ids[1:]


def _pieces(tokenizer: Any, text: Text, max_length: int) -> list[Window]:
    said = None
    if text.answers is not None:
        # A template has put its special tokens there.
        ids, spoken = chats.coded(tokenizer, text)
        said = None if text.whole else spoken
    else:
        ids = begun(tokenizer, tokenizer(text.text)["input_ids"]) if text.text else []
    pieces = [
        Window(ids[at : at + max_length], said=said and said[at : at + max_length])
        for at in range(0, len(ids), max_length)
    ]
    return [piece for piece in pieces if len(piece.ids) > 1 or piece is pieces[0]]


def collate(model: Any, group: Sequence[Window], pad: int) -> Batch:
    """One batch of windows, padded on the right; with labels where there is something to write."""
    ids, mask = _padded([window.ids for window in group], pad)
    batch = {"input_ids": ids, "attention_mask": mask}
    if group[0].labels is not None:
        labels, label_mask = _padded([window.labels or [] for window in group], pad, ids.shape[1])
        start = model.config.decoder_start_token_id
        begin = torch.full_like(labels[:, :1], pad if start is None else start)
        batch["decoder_input_ids"] = torch.cat([begin, labels[:, :-1]], dim=1)
        # A decoder reads its start token and all labels but the last: as many as there are labels.
        batch["decoder_attention_mask"] = label_mask
        batch["labels"] = labels.masked_fill(label_mask == 0, IGNORED)
    return batch


def _padded(
    rows: list[list[int]], pad: int, unlike: int | None = None, left: bool = False
) -> tuple[Tensor, Tensor]:
    longest = max(len(row) for row in rows)
    if longest == unlike:
        longest += 1
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(longest - len(row), longest) if left else slice(len(row))
        ids[index, place] = torch.tensor(row, dtype=torch.long)
        mask[index, place] = 1
    return ids, mask
