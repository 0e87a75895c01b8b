"""A model as OpenVINO's own files, made from its ONNX graph. Factors stay factors."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eckart.integrations import onnx
from eckart.integrations.parity import Runner
from eckart.model.text import Batch
from eckart.types import EckartError

FILE = "openvino_model.xml"
EXACTLY = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
"""Left to itself the runtime takes bfloat16 on some CPUs, and rounds what meets int8 weights to int8 too."""
NEEDS = (*onnx.NEEDS, "openvino")


def write(model: Any, folder: Path) -> tuple[list[str], str]:
    """Write `openvino_model.xml` and `openvino_model.bin`, in float32, the batch and both lengths free.

    Returns:
        The names of the inputs, in order, and of the output.

    Raises:
        EckartError: torch cannot export this model, or OpenVINO does not take it.
    """
    import openvino

    # On the disk that the result goes to: beside it there must be room for the graph.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        names = onnx.write(model, Path(scratch))
        try:
            made = openvino.convert_model(Path(scratch, onnx.FILE))
            openvino.save_model(made, folder / FILE, compress_to_fp16=False)
        except RuntimeError as error:
            raise EckartError(f"OpenVINO does not take the graph: {_first_line(error)}") from error
        # It maps the graph's file into memory, which must not be gone before the map is.
        del made
    return names


def runner(path: Path) -> Runner:
    """OpenVINO's files in its CPU runtime, in float32 also where it would rather compute in less.

    Raises:
        EckartError: the runtime does not take them, or fails while it runs.
    """
    import openvino

    try:
        compiled = openvino.Core().compile_model(path, "CPU", EXACTLY)
    except RuntimeError as error:
        raise EckartError(f"OpenVINO does not take the model: {_first_line(error)}") from error

    def run(batch: Batch) -> Tensor:
        try:
            found = compiled({name: tensor.numpy() for name, tensor in batch.items()})[0]
        except RuntimeError as error:
            raise EckartError(f"OpenVINO fails on the model: {_first_line(error)}") from error
        return torch.from_numpy(found.copy())

    return run


def _first_line(error: Exception) -> str:
    """OpenVINO's errors have the places in its own code, and then what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(("Exception from", "Check '"))), lines[0])
