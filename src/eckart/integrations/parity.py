"""Parity of another runtime with a model: fixed batches, and how far its outputs are from the model's own."""

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
"""Batch and length of each batch. A graph is traced at neither."""

Runner = Callable[[Batch], Tensor]
"""A batch to the first output that a runtime gives for it, of any float dtype, on the CPU."""


@dataclass(frozen=True)
class Reference:
    """A batch, and the model's own output for it."""

    batch: Batch
    output: Tensor


@dataclass(frozen=True)
class Deviation:
    """How far an output is from the model's own.

    Attributes:
        batch, length: the shape of the batch, in rows and tokens.
        difference: the largest of any output, absolute.
        relative: the same, as a share of the model's largest output.
    """

    batch: int
    length: int
    difference: float
    relative: float


def example_batch(model: Any, batch: int, length: int) -> Batch:
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
    inputs = {"input_ids": ids, "attention_mask": mask}
    # RoBERTa takes token types too, and knows one.
    if "token_type_ids" in accepted and getattr(config, "type_vocab_size", 0) > 1:
        inputs["token_type_ids"] = (torch.arange(length) >= length // 2).long().repeat(batch, 1)
    if is_encoder_decoder(model):
        inputs["decoder_input_ids"] = ids[:, : length // 2 + 1].clone()
    return {name: tensor for name, tensor in inputs.items() if name in accepted}


def stateless(model: Any) -> dict[str, bool]:
    """The option that has a model keep no keys and values of earlier tokens, where it has that option."""
    return {"use_cache": False} if "use_cache" in signature(model.forward).parameters else {}


@torch.no_grad()
def references(model: Any) -> list[Reference]:
    """The model's own first output for a batch of each of `SHAPES`."""
    batches = [example_batch(model, *shape) for shape in SHAPES]
    return [Reference(batch, model_runner(model)(batch)) for batch in batches]


def model_runner(model: Any) -> Runner:
    """A model as a runtime among others."""

    @torch.no_grad()
    def run(batch: Batch) -> Tensor:
        found: Tensor = model(**batch, **stateless(model))[0]
        return found.cpu()

    return run


def compare(expected: list[Reference], runner: Runner, tolerance: float, where: str) -> list[Deviation]:
    """Run a runtime on the same batches.

    Args:
        tolerance: largest difference, as a share of the model's largest output.
        where: the runtime's name, for an error.

    Raises:
        EckartError: an output has another shape, is not finite or is further away than `tolerance`.
    """
    found = []
    for reference in expected:
        batch, length = reference.batch["input_ids"].shape
        output, own = runner(reference.batch).double(), reference.output.double()
        if output.shape != own.shape:
            raise EckartError(
                f"in {where} the answer to {batch} x {length} tokens has shape {tuple(output.shape)}, and "
                f"the model's own {tuple(own.shape)}; nothing was exported"
            )
        difference = float((output - own).abs().max())
        relative = difference / (float(own.abs().max()) or 1.0)
        # Written so that NaN fails too.
        if not relative <= tolerance:
            raise EckartError(
                f"in {where} the answers to {batch} x {length} tokens differ from the model's own by "
                f"{relative:.1e} of the largest, more than {tolerance:g}; nothing was exported"
            )
        found.append(Deviation(batch, length, difference, relative))
    return found
