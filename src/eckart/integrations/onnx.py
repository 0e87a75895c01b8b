"""A model as one ONNX graph, by torch's own exporter, to run in ONNX Runtime. Factors stay factors."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from eckart.integrations.parity import Runner, example_batch, stateless
from eckart.model.quietness import quiet
from eckart.model.text import Batch
from eckart.structures import QuantizedLinear, put
from eckart.types import EckartError

FILE = "model.onnx"
NEEDS = ("onnx", "onnxscript", "onnxruntime")
TRACED = (2, 12)
"""Batch and length that the graph is traced at; both are free in it."""
LONGEST_REASON = 200


class _FirstOutput(nn.Module):
    """A model with inputs in order and its first output alone."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self.model, self.names, self.options = model, names, stateless(model)

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.model(**dict(zip(self.names, inputs, strict=True)), **self.options)[0]
        return output


def write(model: Any, folder: Path) -> tuple[list[str], str]:
    """Write `model.onnx`, and `model.onnx.data` beside it where that would be larger than 2 GB.

    The batch and both lengths are free. In place, attention and experts are switched to the implementations
    that can be exported, and int4 weights become floats: ONNX has no operator that takes them out of their
    bytes.

    Returns:
        The names of the inputs, in order, and of the output: `logits`, or `last_hidden_state`.

    Raises:
        EckartError: torch cannot export this model.
    """
    model.set_attn_implementation("eager")
    if hasattr(model, "set_experts_implementation"):
        # What it chooses by itself is an operator that ONNX does not have.
        model.set_experts_implementation("batched_mm")
    _widen(model)
    batch = example_batch(model, *TRACED)
    with torch.no_grad():
        output = next(iter(model(**batch, **stateless(model)).keys()))
    lengths = [("decoder_" if name.startswith("decoder_") else "") + "sequence" for name in batch]
    try:
        with _without_output():
            program = torch.onnx.export(
                _FirstOutput(model, list(batch)).eval(),
                tuple(batch.values()),
                dynamo=True,
                verbose=False,
                input_names=list(batch),
                output_names=[output],
                dynamic_shapes=(tuple({0: "batch", 1: length} for length in lengths),),
            )
            assert program is not None
            _strip_locations(program.model)
            program.save(folder / FILE)
    except torch.onnx.OnnxExporterError as error:
        raise EckartError(f"{type(model).__name__} cannot be exported to ONNX: {_why(error)}") from error
    return list(batch), output


def _widen(model: Any) -> None:
    for name, module in list(model.named_modules()):
        if isinstance(module, QuantizedLinear) and module.bits < 8:
            linear = nn.Linear(module.in_features, module.out_features, bias=False, device="meta")
            linear.weight = nn.Parameter(module.scaled(), requires_grad=False)
            linear.register_parameter("bias", module.bias)
            put(model, name, linear)


def runner(path: Path) -> Runner:
    """An ONNX file in ONNX Runtime on the CPU.

    Raises:
        EckartError: ONNX Runtime does not take it, or fails while it runs.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    names = (
        "Fail",
        "InvalidArgument",
        "InvalidGraph",
        "InvalidProtobuf",
        "NotImplemented",
        "RuntimeException",
    )
    failures = tuple(getattr(states, name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except failures as error:
        raise EckartError(f"ONNX Runtime does not take the graph: {_short(str(error))}") from error

    def run(batch: Batch) -> Tensor:
        try:
            outputs = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        except failures as error:
            raise EckartError(f"ONNX Runtime fails on the graph: {_short(str(error))}") from error
        return torch.from_numpy(outputs[0])

    return run


def _strip_locations(model: Any) -> None:
    """Take the lines of code, with their paths on this machine, out of each node: most of a small file."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            for value in node.outputs:
                value.metadata_props.clear()


@contextlib.contextmanager
def _without_output() -> Iterator[None]:
    """Without what the exporter prints and logs, whole graphs where it fails: its error has the reason."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            quiet(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(before)


def _why(error: Exception) -> str:
    """The reason in torch's report of a failed export, in one line."""
    report = str(error)
    if "inferred a static shape" in report:
        return "its code computes something else for each length of text, so that none is left free"
    _, _, summary = report.partition("## Exception summary")
    _, _, reason = summary.strip().partition(">: ")
    return _short(reason.splitlines()[0] if reason else report)


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST_REASON else words[:LONGEST_REASON].rsplit(" ", 1)[0] + " …"
