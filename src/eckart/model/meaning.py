"""What a direction of the hidden state says in tokens, and the weights that such directions come from."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.convert_slow_tokenizer import bytes_to_unicode

from eckart.model import loading, portable
from eckart.model.targets import Found, find_targets
from eckart.structures import StructuredLinear, put
from eckart.types import UsageError

CHUNK = 16384
"""Rows of the unembedding that are upcast at once: all of a large one would be gigabytes."""

VISIBLE = {" ": "␣", "\n": "⏎", "\t": "⇥"}
BYTES = {letter: byte for byte, letter in bytes_to_unicode().items()}
"""The letters that a byte-level tokenizer spells bytes with."""


class Unembedding:
    """The rows that a hidden state is compared with to become tokens, and the tokens as people read them.

    Rows without a token, as vocabularies are padded with, are left out.

    Args:
        model: its head is taken, tied or not; where it has none, its input embeddings.
        tokenizer: the model's.

    Attributes:
        width: what a direction must be as long as.

    Raises:
        UsageError: the model has neither, or the tokenizer has no token for any of its rows.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        rows = unembedding_of(model)
        named = {index: token for token, index in tokenizer.get_vocab().items() if index < len(rows)}
        ids = sorted(named)
        if not ids:
            raise UsageError("the tokenizer has no token for any row of the embeddings: is it this model's?")
        read = _reader(tokenizer)
        self.tokens = [read(named[index]) for index in ids]
        self._ids = torch.tensor(ids, device=rows.device)
        self._rows = rows

    @property
    def width(self) -> int:
        return int(self._rows.shape[1])

    @torch.no_grad()
    def top(self, directions: Tensor, count: int) -> list[dict[str, list[str]]] | None:
        """The tokens whose rows have the largest products with each direction.

        The final norm is left out, as in Ferrando & Voita (2024): its scale depends on the whole state.

        Args:
            directions: `(k, width)`, of any length and float dtype.
            count: of tokens, for either end.

        Returns:
            For each direction the tokens towards it, `plus`, and away from it, `minus`, furthest first;
            `None` where the directions have another width.
        """
        if directions.shape[1] != self.width:
            return None
        columns = directions.to(self._rows.device, torch.float32).T
        chunks = [self._rows[ids].float() @ columns for ids in self._ids.split(CHUNK)]
        scores = torch.cat(chunks).T
        count = min(count, len(self.tokens))
        ends = {"plus": scores.topk(count).indices, "minus": (-scores).topk(count).indices}
        return [
            {end: [self.tokens[place] for place in places[row].tolist()] for end, places in ends.items()}
            for row in range(len(directions))
        ]


def unembedding_of(model: Any) -> Tensor:
    """The weight `(vocabulary, hidden)` of the model's head, or of its input embeddings where it has none.

    Raises:
        UsageError: it has neither.
    """
    for name in ("get_output_embeddings", "get_input_embeddings"):
        try:
            module = getattr(model, name)()
        except (AttributeError, NotImplementedError):  # what transformers raises where a model has none
            continue
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            return weight.detach()
    raise UsageError(
        f"{type(model).__name__} has neither a head nor embeddings of tokens to name its bases by"
    )


def has_head(model: Any) -> bool:
    """Whether the model turns hidden states into tokens itself."""
    return getattr(model, "get_output_embeddings", lambda: None)() is not None


def find_weights(model: Any, patterns: Sequence[str] | None = None, layers: str | None = None) -> Found:
    """The targets of a model, dense or compressed, as `find_targets` finds them: what was a target stays one.

    Raises:
        UsageError: a pattern or a choice of layers that fits nothing.
    """
    replaced = {
        name: module for name, module in model.named_modules() if isinstance(module, StructuredLinear)
    }
    try:
        for name, module in replaced.items():
            bias = getattr(module, "bias", None) is not None
            stand_in = nn.Linear(module.in_features, module.out_features, bias, device="meta")
            put(model, name, stand_in)
        return find_targets(model, patterns, layers)
    finally:
        for name, module in replaced.items():
            put(model, name, module)


def refuse_quantized(config: Any) -> None:
    """Raises UsageError where the weights are neither plain floats nor factors of them."""
    if (method := _method(config)) not in (None, portable.QUANT_METHOD):
        raise UsageError(f"this model is quantized ({method}); give the float model it came from")


def require_loaded(model: Any) -> None:
    """Raises UsageError where a model given in memory is none whose weights or factors can be read."""
    config = getattr(model, "config", None)
    refuse_quantized(config)
    if _method(config) is None:
        loading.require_loaded(model)


def _method(config: Any) -> str | None:
    quantization = getattr(config, "quantization_config", None)
    return None if quantization is None else dict(quantization).get("quant_method")


def _reader(tokenizer: Any) -> Callable[[str], str]:
    """How a token of this tokenizer is shown: with its spaces and line breaks visible, and nothing hidden."""
    byte_level = tokenizer.convert_tokens_to_string(["Ġ"]) == " "

    def read(token: str) -> str:
        if byte_level and all(letter in BYTES for letter in token):
            spelled = bytes(BYTES[letter] for letter in token)
            return _visible(_text(spelled))
        if byte := re.fullmatch(r"<0x([0-9A-F]{2})>", token):
            return _visible(_text(bytes.fromhex(byte[1])))
        return _visible(token.replace("▁", " "))

    return read


def _text(spelled: bytes) -> str:
    """Bytes as text; where they are only part of a letter, as `<0xE2>`."""
    try:
        return spelled.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in spelled)


def _visible(text: str) -> str:
    return "".join(
        VISIBLE.get(letter)
        or (letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii"))
        for letter in text
    )
