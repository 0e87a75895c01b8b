"""A compressed model in the form that other tools read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from eckart import checkpoint, folders
from eckart.compression.folder.export import DENSE, GGUF_READY, export_dense
from eckart.compression.folder.gguf import GGUF, Conversion, export_gguf
from eckart.evaluation.machine import Stopwatch
from eckart.integrations import exports, graphs, llama_cpp
from eckart.integrations.exports import Exported, Source
from eckart.model import loading
from eckart.recipes.calling import checked
from eckart.types import UsageError

FORMATS = (DENSE, GGUF_READY, GGUF, *graphs.GRAPHS)


@checked()
def export(
    model: str | Path,
    out: str | Path,
    *,
    format: str,  # noqa: A002
    check: bool = True,
    converter: str | Path | None = None,
    type: str | None = None,  # noqa: A002
) -> Exported:
    """Write a model in the form that another tool reads.

    Args:
        model: a folder that Eckart wrote; for `gguf`, `onnx` and `openvino` any folder, hub id, or `pocket`.
        out: folder to write; it must not exist.
        format: `dense` multiplies the factors out, into a plain folder that any tool loads and that gains no
            size; `gguf-ready` is the same, with what llama.cpp's and CTranslate2's converters need looked at;
            `gguf` is one file for llama.cpp, by its own converter, from a plain folder as it is;
            `onnx` and `openvino` are graphs in float32, for any batch and length, and factors stay factors.
        check: ask what was made the same as the model, at two shapes, and compare the answers.
        converter: of `gguf`: llama.cpp's `convert_hf_to_gguf.py`, or the folder that it is in, which is run;
            default that of `$LLAMA_CPP`, else that on the path.
        type: of `gguf`, what matrices are written in: f32, f16, bf16, q8_0, or auto, the best of 16 bits;
            default auto.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed, or the answers differ; nothing was left behind.
    """
    watch = Stopwatch()
    if format not in FORMATS:
        raise UsageError(f"--format {format}: it is one of {', '.join(FORMATS)}")
    if format != GGUF and (converter is not None or type is not None):
        raise UsageError(f"--converter and --type are for --format {GGUF}")
    if type is not None and type not in llama_cpp.TYPES:
        raise UsageError(f"--type {type}: it is one of {', '.join(llama_cpp.TYPES)}")
    graph = format in graphs.GRAPHS
    destination = Path(out)
    folders.refuse_existing(destination)
    if graph:
        graphs.require_graph(format)
    if format == GGUF:
        how = Conversion(llama_cpp.find_converter(converter), type or "auto")
    folder = loading.find_model(model)
    config = loading.load_config(folder)
    exports.require_float(config)
    if graph:
        graphs.require_traceable(config, format)
    source = Source(folder, loading.name_of(model, folder), config, checkpoint.open_checkpoint(folder))
    if format == GGUF:
        return replace(export_gguf(source, destination, how, check), seconds=watch.seconds())
    job = graphs.export_graph if graph else export_dense
    return replace(job(source, destination, format, check), seconds=watch.seconds())
