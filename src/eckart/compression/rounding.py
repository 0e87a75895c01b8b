"""Weights in few bits: those of structures and of targets that stayed dense, at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eckart import linalg
from eckart.model.quantizing import put_quantized
from eckart.model.targets import weight_of
from eckart.structures import BITS, Rounded, find, float_tensors, structure_of
from eckart.types import EckartError, Quantize, TargetRecord, Track, UsageError, silent

Sides = Callable[[str], tuple[linalg.Side, linalg.Side]]


def require_possible(quantize: str | None, merge: bool) -> None:
    """Raises UsageError where weights are to be rounded and floats are wanted."""
    if quantize is not None and merge:
        raise UsageError(
            "--merge makes floats of what --quantize rounds, and --size by itself: give one of them, or "
            "--quantize none"
        )


def quantize_targets(
    model: Any, records: Sequence[TargetRecord], sides: Sides, track: Track = silent
) -> list[TargetRecord]:
    """Round the weights of targets whose options have bits, in place, each in its metric.

    Biases stay in the model's dtype, and so does all that is no target. What was rounded as it was made stays
    as it is.

    Args:
        records: of the targets as they are now.
        sides: the metric of a target.

    Returns:
        The records, with what rounding came to.
    """
    todo = [
        record.option.bits is not None and not find(record.option.structure).needs_bits for record in records
    ]
    if not any(todo):
        return list(records)
    pairs = list(zip(records, todo, strict=True))
    return [
        _quantized(model, record, sides) if wanted else record
        for record, wanted in track(pairs, "quantizing", len(pairs))
    ]


def _quantized(model: Any, record: TargetRecord, sides: Sides) -> TargetRecord:
    module, option = model.get_submodule(record.name), record.option
    bits: Quantize | None = option.bits
    assert bits is not None
    left, right = sides(record.name)
    structure = structure_of(module)
    try:
        if structure is None:
            weight = weight_of(module)
            whole, error = linalg.quantize_weight(weight, BITS[bits], weight.dtype, left, right)
            parts: dict[str, Rounded] = {"weight": whole}
        else:
            tensors = float_tensors(module)
            problem = linalg.Problem(module.weight, left, right, module.weight.dtype, BITS[bits])
            parts, error = structure.round(problem, option.size or 0, tensors)
    except (ValueError, RuntimeError) as error_:
        raise EckartError(f"{record.name} could not be quantized: {error_}") from error_
    for part, rounded in parts.items():
        layer = part.removesuffix("weight").removesuffix(".")
        put_quantized(model, f"{record.name}.{layer}" if layer else record.name, rounded)
    return record.model_copy(update={"rounding_error": error})
