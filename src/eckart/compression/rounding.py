"""Weights in 8 or 4 bits: the factors and the targets that stayed dense, last; or a weight beside factors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

from eckart import linalg
from eckart.model import quantizing, replacing
from eckart.model.portable import FactoredLinear
from eckart.model.portable.quantized import BITS
from eckart.model.targets import weight_of
from eckart.types import (
    CORRECTED,
    EckartError,
    Factors,
    Quantize,
    Structure,
    TargetRecord,
    Track,
    UsageError,
    silent,
)

Sides = Callable[[str], tuple[linalg.Side, linalg.Side]]


def require_possible(quantize: Quantize | None, merge: bool = False) -> None:
    """Raises UsageError where weights are to be rounded and torchao is not there, or floats are wanted."""
    if quantize is not None and merge:
        raise UsageError("--merge makes floats of what --quantize rounds: give one of them")
    if quantize is not None and importlib.util.find_spec("torchao") is None:
        raise UsageError(f"{quantize} needs torchao: pip install 'eckart[quant]'")


def quantize_targets(
    model: Any,
    records: Sequence[TargetRecord],
    how: Quantize | None,
    structure: Structure,
    sides: Sides,
    track: Track = silent,
) -> list[TargetRecord]:
    """Round the weights of targets, in place, each in its metric.

    Biases stay in the model's dtype, and so does all that is no target.

    Args:
        records: of the targets as they are now.
        how: `None` for nothing.
        structure: of the recipe; `quantized+lowrank` is rounded when it is made (`correct`), and what stays
            dense beside it would take no fewer bytes so.
        sides: the metric of a target.

    Returns:
        The records, with what rounding came to.
    """
    if how is None or structure == CORRECTED:
        return list(records)
    return [_quantized(model, record, how, sides) for record in track(records, "quantizing", len(records))]


def correct(
    model: Any, name: str, weight: Any, rank: int, how: Quantize, sides: tuple[linalg.Side, linalg.Side]
) -> tuple[Factors, float]:
    """Put a weight in few bits, and factors of this rank beside it, in the place of a dense module.

    Returns:
        What the module holds now, in its dtype, and the relative error before the factors were rounded to it.
    """
    dtype = weight_of(model.get_submodule(name)).dtype
    try:
        Q, U, V, errors = linalg.quantize_with_factors(weight, rank, BITS[how], dtype, *sides)
    except (ValueError, RuntimeError) as error:
        raise EckartError(f"{name} could not be quantized: {error}") from error
    replacing.replace(model, name, Factors(CORRECTED, U, V, Q=Q.values()))
    quantizing.put_quantized(model, f"{name}.Q", Q.numbers, Q.scales, Q.bits)
    return replacing.factors_of(model.get_submodule(name)), errors[-1]


def _quantized(model: Any, record: TargetRecord, how: Quantize, sides: Sides) -> TargetRecord:
    module, bits = model.get_submodule(record.name), BITS[how]
    left, right = sides(record.name)
    try:
        if isinstance(module, FactoredLinear):
            factors = replacing.factors_of(module)
            U, V, error = linalg.quantize_factors(factors, bits, factors.U.dtype, left, right)
            parts = {f"{record.name}.U": U, f"{record.name}.V": V}
        else:
            weight = weight_of(module)
            whole, error = linalg.quantize_weight(weight, bits, weight.dtype, left, right)
            parts = {record.name: whole}
    except (ValueError, RuntimeError) as error_:
        raise EckartError(f"{record.name} could not be quantized: {error_}") from error_
    for name, part in parts.items():
        quantizing.put_quantized(model, name, part.numbers, part.scales, part.bits)
    return record.model_copy(update={"quantize": how, "rounding_error": error})
