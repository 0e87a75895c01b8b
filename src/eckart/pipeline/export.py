"""A compressed model in the form that other tools read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eckart import checkpoint, folders
from eckart.compression.folder.export import DENSE, GGUF_READY, export_dense
from eckart.evaluation.machine import Stopwatch
from eckart.integrations import exports, graphs
from eckart.integrations.exports import Exported, Source
from eckart.model import loading
from eckart.recipes.calling import checked
from eckart.types import UsageError

FORMATS = (DENSE, GGUF_READY, *graphs.GRAPHS)


@checked()
def export(model: str | Path, out: str | Path, *, format: str, check: bool = True) -> Exported:  # noqa: A002
    """Write a model in the form that another tool reads.

    Args:
        model: a folder that Eckart wrote; for `onnx` and `openvino` any folder, hub id, or `pocket`.
        out: folder to write; it must not exist.
        format: `dense` multiplies the factors out, into a plain folder that any tool loads and that gains no
            size; `gguf-ready` is the same, with what llama.cpp's and CTranslate2's converters need looked at;
            `onnx` and `openvino` are graphs in float32, for any batch and length, and factors stay factors.
        check: ask what was made the same as the model, at two shapes, and compare the answers.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed, or the answers differ; nothing was left behind.
    """
    watch = Stopwatch()
    if format not in FORMATS:
        raise UsageError(f"--format {format}: it is one of {', '.join(FORMATS)}")
    graph = format in graphs.GRAPHS
    destination = Path(out)
    folders.refuse_existing(destination)
    if graph:
        graphs.require_graph(format)
    folder = loading.find_model(model)
    config = loading.load_config(folder)
    exports.require_float(config)
    if graph:
        graphs.require_traceable(config, format)
    source = Source(folder, loading.name_of(model, folder), config, checkpoint.open_checkpoint(folder))
    job = graphs.export_graph if graph else export_dense
    return replace(job(source, destination, format, check), seconds=watch.seconds())
