"""Texts into examples with the tokens that the loss is on, and examples into batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart.model import chats
from eckart.model import text as text_
from eckart.types import EckartError, Text

AT_ONCE = 1000
"""Texts that a tokenizer is given together."""


@dataclass(frozen=True)
class Example:
    """One window to learn from.

    Attributes:
        ids: what the model reads.
        start: of a decoder, the first of `ids` that the loss is on: that of the completion.
        written: of an encoder-decoder, what it should write.
        said: of a chat, 1 for each of `ids` that the assistant says, and the loss is on.
    """

    ids: array[int]
    start: int = 0
    written: array[int] | None = None
    said: array[int] | None = None

    def __len__(self) -> int:
        return len(self.ids) + len(self.written or ())


@dataclass
class Examples:
    """All that there is to learn from, and what became of texts that are too long.

    Attributes:
        rows: the examples, in the order of the texts.
        length: tokens in a window at most: as asked for, or what the model takes.
        cut: texts that lost their end.
        pieces: texts that were cut into several windows, all of which are there.
        left_out: texts of which no token to learn was left.
    """

    rows: list[Example] = field(default_factory=list)
    length: int = 0
    cut: int = 0
    pieces: int = 0
    left_out: int = 0

    @property
    def notes(self) -> list[str]:
        """What a person should know."""
        said = {
            f"texts were longer than {self.length} tokens and lost their end": self.cut,
            f"texts were longer than {self.length} tokens and were cut into several windows": self.pieces,
            f"texts were left out: none of their first {self.length} tokens is one to learn": self.left_out,
        }
        return [f"{count:,} {words}" for words, count in said.items() if count]


def read(model: Any, tokenizer: Any, texts: Sequence[Text], max_length: int, end: bool = True) -> Examples:
    """Tokenise texts for a model.

    A decoder learns a text without a prompt as a whole, window after window where it is long; of one with a
    prompt it learns the completion alone, and the end of text behind it. An encoder-decoder reads the prompt
    and writes the completion; plain text it reads and writes. An encoder only reads.

    Args:
        max_length: tokens in a window at most; less where the model takes less.
        end: whether a completion ends with the tokenizer's end of text, where it has one.

    Raises:
        EckartError: nothing is left to learn.
    """
    found = examples(model, tokenizer, texts, max_length, end)
    if not found.rows:
        raise EckartError("the data gives nothing to learn: no text has a token that the loss could be on")
    return found


def examples(model: Any, tokenizer: Any, texts: Sequence[Text], max_length: int, end: bool) -> Examples:
    """As `read`, also where nothing is left."""
    found = Examples(length=text_.usable_length(model, tokenizer, max_length))
    stop = tokenizer.eos_token_id if end else None
    make = _writing if text_.is_encoder_decoder(model) else _decoding if text_.is_causal(model) else _reading
    for at in range(0, len(texts), AT_ONCE):
        some = list(texts[at : at + AT_ONCE])
        if model.can_generate():
            some = [chats.rendered(tokenizer, text) for text in some]
        found.rows.extend(make(tokenizer, some, stop, found))
    return found


def _decoding(tokenizer: Any, texts: Sequence[Text], stop: int | None, found: Examples) -> Iterator[Example]:
    wholes = _ids(tokenizer, [text.text for text in texts])
    prompts = _ids(tokenizer, [text.prompt for text in texts])
    for text, whole, prompt in zip(texts, wholes, prompts, strict=True):
        if text.answers is not None:
            yield from _chatting(tokenizer, text, found)
            continue
        ids, length = text_.begun(tokenizer, whole), found.length
        if not text.prompt:
            pieces = [ids[at : at + length] for at in range(0, len(ids), length)]
            rows = [Example(array("i", piece)) for piece in pieces if len(piece) > 1]
            found.pieces += len(rows) > 1
            found.left_out += not rows
            yield from rows
            continue
        # Where a token reaches over the border, it is the completion's: it says something of it.
        start = _common(ids, text_.begun(tokenizer, prompt))
        if stop is not None and ids[-1:] != [stop]:
            ids = [*ids, stop]
        found.cut += len(ids) > length
        if text.completion and max(start, 1) < min(len(ids), length):
            yield Example(array("i", ids[:length]), start)
        else:
            found.left_out += 1


def _chatting(tokenizer: Any, text: Text, found: Examples) -> Iterator[Example]:
    """Window after window of a chat, of those in which the assistant speaks."""
    ids, said = chats.coded(tokenizer, text)
    length = found.length
    rows = [
        Example(array("i", ids[at : at + length]), said=array("b", said[at : at + length]))
        for at in range(0, len(ids), length)
    ]
    # The first of a window is read and not predicted.
    rows = [row for row in rows if row.said is not None and any(row.said[1:])]
    found.pieces += len(rows) > 1
    found.left_out += not rows
    yield from rows


def _writing(tokenizer: Any, texts: Sequence[Text], stop: int | None, found: Examples) -> Iterator[Example]:
    reads = _cut(tokenizer, [text.prompt or text.completion for text in texts], found.length)
    writes = _ids(tokenizer, [text.completion for text in texts])
    for (ids, lost), write in zip(reads, writes, strict=True):
        written = [*write, stop] if stop is not None and write and write[-1] != stop else write
        found.cut += lost or len(written) > found.length
        if ids and written:
            yield Example(array("i", ids), 0, array("i", written[: found.length]))
        else:
            found.left_out += 1


def _reading(tokenizer: Any, texts: Sequence[Text], stop: int | None, found: Examples) -> Iterator[Example]:
    for ids, lost in _cut(tokenizer, [text.text for text in texts], found.length):
        found.cut += lost
        if ids:
            yield Example(array("i", ids))
        else:
            found.left_out += 1


def _ids(tokenizer: Any, pieces: list[str]) -> list[list[int]]:
    rows: list[list[int]] = tokenizer(pieces)["input_ids"]
    return rows


def _cut(tokenizer: Any, pieces: list[str], length: int) -> Iterator[tuple[list[int], bool]]:
    """Ids, and whether some were lost. The tokenizer cuts, so that its own last token stays, as BERT's."""
    rows: list[list[int]] = tokenizer(pieces, truncation=True, max_length=length)["input_ids"]
    for ids, piece in zip(rows, pieces, strict=True):
        # Only what fills a window can have been longer.
        yield ids, len(ids) >= length and len(_ids(tokenizer, [piece])[0]) > len(ids)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens they begin with together."""
    return next(
        (at for at, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]),
        min(len(one), len(other)),
    )


@dataclass(frozen=True)
class Collator:
    """Examples into a batch, padded on the right: ids, mask, labels that are -100 where no loss is.

    A decoder's label stands at the place of its own token: the loss shifts. An encoder-decoder's batch has
    what its decoder reads too. An encoder's has no labels.
    """

    model: Any
    padding: int

    def __call__(self, rows: Sequence[Example]) -> text_.Batch:
        windows = [
            text_.Window(list(row.ids), None if row.written is None else list(row.written)) for row in rows
        ]
        batch = text_.collate(self.model, windows, self.padding)
        if text_.is_causal(self.model):
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, text_.IGNORED)
            for at, row in enumerate(rows):
                labels[at, : row.start] = text_.IGNORED
                if row.said is not None:
                    quiet = [place for place, said in enumerate(row.said) if not said]
                    labels[at, quiet] = text_.IGNORED
            batch["labels"] = labels
        return batch
