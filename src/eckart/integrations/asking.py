"""Fixed questions to a model, and how far another runtime's answers are from its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from eckart.model.text import Batch, is_encoder_decoder
from eckart.types import EckartError, UsageError

SHAPES = ((1, 5), (3, 19))
"""Batch and length of each question. A graph is traced at neither."""

Runner = Callable[[Batch], Tensor]
"""A batch to the first output that a runtime gives for it, of any float dtype, on the CPU."""


@dataclass(frozen=True)
class Question:
    """A batch, and what the model gave for it."""

    batch: Batch
    answer: Tensor


@dataclass(frozen=True)
class Compared:
    """How far an answer is from the model's own.

    Attributes:
        batch, length: the question's shape, in rows and tokens.
        difference: the largest of any output, absolute.
        relative: the same, as a share of the model's largest output.
    """

    batch: int
    length: int
    difference: float
    relative: float


def question(model: Any, batch: int, length: int) -> Batch:
    """Token ids and what goes with them, of `batch` rows of `length` tokens, cut where the model ends.

    Of several rows the first is padded on the right. An encoder-decoder reads a decoder's ids too, of
    another length than the encoder's.

    Raises:
        UsageError: the model reads no token ids.
    """
    config = model.config.get_text_config()
    accepted = signature(model.forward).parameters
    if "input_ids" not in accepted or not hasattr(config, "vocab_size"):
        raise UsageError(f"{type(model).__name__} reads no token ids, and only such models are exported")
    length = min(length, getattr(config, "max_position_embeddings", None) or length)
    ids = (7919 * (torch.arange(batch * length) + 1)).remainder(config.vocab_size).view(batch, length)
    mask = torch.ones_like(ids)
    if batch > 1:
        mask[0, -(length // 4) :] = 0
    asked = {"input_ids": ids, "attention_mask": mask}
    # RoBERTa takes token types too, and knows one.
    if "token_type_ids" in accepted and getattr(config, "type_vocab_size", 0) > 1:
        asked["token_type_ids"] = (torch.arange(length) >= length // 2).long().repeat(batch, 1)
    if is_encoder_decoder(model):
        asked["decoder_input_ids"] = ids[:, : length // 2 + 1].clone()
    return {name: tensor for name, tensor in asked.items() if name in accepted}


def stateless(model: Any) -> dict[str, bool]:
    """The option that has a model keep no keys and values of earlier tokens, where it has that option."""
    return {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}


@torch.no_grad()
def ask(model: Any) -> list[Question]:
    """The model's own answers to questions of `SHAPES`: its first output."""
    batches = [question(model, *shape) for shape in SHAPES]
    return [Question(batch, run(model)(batch)) for batch in batches]


def run(model: Any) -> Runner:
    """A model as a runtime among others."""

    @torch.no_grad()
    def answer(batch: Batch) -> Tensor:
        found: Tensor = model(**batch, **stateless(model))[0]
        return found.cpu()

    return answer


def compare(questions: list[Question], runner: Runner, tolerance: float, where: str) -> list[Compared]:
    """Ask a runtime the same.

    Args:
        tolerance: largest difference, as a share of the model's largest output.
        where: the runtime's name, for an error.

    Raises:
        EckartError: an answer has another shape, is not finite or is further away than `tolerance`.
    """
    found = []
    for asked in questions:
        batch, length = asked.batch["input_ids"].shape
        answer, expected = runner(asked.batch).double(), asked.answer.double()
        if answer.shape != expected.shape:
            raise EckartError(
                f"in {where} the answer to {batch} x {length} tokens has shape {tuple(answer.shape)}, and "
                f"the model's own {tuple(expected.shape)}; nothing was exported"
            )
        difference = float((answer - expected).abs().max())
        relative = difference / (float(expected.abs().max()) or 1.0)
        # Written so that NaN fails too.
        if not relative <= tolerance:
            raise EckartError(
                f"in {where} the answers to {batch} x {length} tokens differ from the model's own by "
                f"{relative:.1e} of the largest, more than {tolerance:g}; nothing was exported"
            )
        found.append(Compared(batch, length, difference, relative))
    return found
