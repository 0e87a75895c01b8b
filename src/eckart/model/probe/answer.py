"""A fixed question put to a model, and a few numbers of all that it answers.

torch alone: `verify` runs this text in a process that has no Eckart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from math import prod
from typing import Any

import torch
from torch import Tensor

KEPT = 32
"""Numbers of each output tensor."""
LAST = "last"
"""What early manifests hold: the last position of the first output."""


def tensors(inputs: Mapping[str, Mapping[str, Any]], model: Any) -> dict[str, Tensor]:
    """The inputs that are described: integers as they are, one integer everywhere, or else a wave."""
    made = {}
    for name, each in inputs.items():
        shape = each["shape"]
        if each.get("values") is not None:
            tensor = torch.tensor(each["values"]).reshape(shape)
        elif each.get("fill") is not None:
            tensor = torch.full(shape, each["fill"])
        else:
            tensor = torch.sin(0.7 * torch.arange(prod(shape), dtype=torch.float64)).reshape(shape)
            tensor = tensor.to(model.dtype)
        made[name] = tensor.to(model.device)
    return made


def ask(model: Any, inputs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[float]]:
    """Numbers of each floating-point tensor in the answer, by its place there, and of the last position.

    What a model draws at random in evaluation is drawn from one seed.
    """
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            answer = model(**_complete(tensors(inputs, model), model))
    finally:
        model.train(training)
    found = {name: _some(tensor.flatten()) for name, tensor in _floats(answer, "")}
    first = next((tensor for _, tensor in _floats(answer, "")), None)
    if first is not None and first.ndim == 3:
        found[LAST] = _some(first[0, -1])
    return found


def _complete(batch: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """With what early manifests leave out: an encoder-decoder writes what it reads."""
    if set(batch) == {"input_ids"} and getattr(model.config, "is_encoder_decoder", False):
        writes = "decoder_input_ids" in signature(model.forward).parameters
        return {**batch, "decoder_input_ids": batch["input_ids"]} if writes else batch
    return batch


def _some(numbers: Tensor) -> list[float]:
    stride = max(1, len(numbers) // KEPT)
    return numbers[::stride][:KEPT].float().tolist()


def _floats(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield name, value
    elif isinstance(value, Mapping):
        for key, each in value.items():
            yield from _floats(each, f"{name}.{key}".strip("."))
    elif isinstance(value, (tuple, list)):
        for index, each in enumerate(value):
            yield from _floats(each, f"{name}.{index}".strip("."))
