"""A model as one graph in float32, for ONNX Runtime or OpenVINO. Factors stay factors."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eckart import checkpoint, folders
from eckart.integrations import onnx, openvino, parity
from eckart.integrations.exports import Exported, Source, remove_code, summary
from eckart.model import cards, loading, probe, replacing, sentences
from eckart.structures import BITS
from eckart.types import MANIFEST, Bytes, UsageError

GRAPHS = {"onnx": (onnx, "ONNX Runtime"), "openvino": (openvino, "OpenVINO")}
"""Formats that are one graph, and where it is checked."""

CARD = """\
# {source}, as {tool} reads it

Where a weight has factors, they are two products in the graph. It computes in float32.

- files: {files}
- inputs: {inputs}, 64-bit integers, `(batch, sequence)`, of any batch and length. Pad on the right.
- output: `{output}`
{checked}"""


def require_graph(format: str) -> None:  # noqa: A002
    """Raises UsageError where what a graph is made with is not installed."""
    if missing := [name for name in GRAPHS[format][0].NEEDS if find_spec(name) is None]:
        raise UsageError(f'--format {format} needs {", ".join(missing)}: pip install "eckart[export]"')


def require_traceable(config: Any, format: str) -> None:  # noqa: A002
    """Raises UsageError where no graph could follow which experts a token takes."""
    if dict(getattr(config, "quantization_config", None) or {}).get("experts"):
        raise UsageError(
            f"the experts of this model are compressed one by one, and --format {format} cannot follow which "
            "a token takes: export to dense first, and that folder to the graph"
        )


def export_graph(source: Source, out: Path, format: str, check: bool) -> Exported:  # noqa: A002
    """Write the graph with the model's tokenizer and a card.

    Args:
        check: compare its outputs with the model's own, at two shapes.

    Raises:
        EckartError: the model cannot be exported, or the outputs differ; nothing was left behind.
    """
    tool, runtime = GRAPHS[format]
    # OpenVINO's is made from the other, which is on the same disk meanwhile.
    copies = 2 if format == "openvino" else 1
    folders.refuse_full(out, copies * 4 * source.stored.parameters)
    model = loading.load_model(source.folder, dtype="float32")
    replacing.require_finite(model)
    expected = parity.references(model) if check else []
    with folders.appearing(out) as temporary:
        inputs, output = tool.write(model, temporary)
        runner = tool.runner(temporary / tool.FILE) if check else None
        checks = (
            [] if runner is None else parity.compare(expected, runner, probe.tolerance("float32"), runtime)
        )
        # OpenVINO maps the file as long as it can run it.
        del runner
        made = sorted(path.name for path in temporary.iterdir())
        size = sum((temporary / name).stat().st_size for name in made)
        replacing.undescribe(model.config)
        remove_code(model.config)
        model.config.save_pretrained(temporary)
        folders.copy_companions(source.folder, temporary, sentences.companions(source.folder))
        # It tells of the weights' files, and they are not here.
        (temporary / MANIFEST).unlink(missing_ok=True)
        what = {"format": format, "source": source.name, "files": made, "inputs": inputs, "output": output}
        (temporary / folders.EXPORTED).write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
        cards.write(
            temporary,
            CARD,
            source.name,
            source.folder,
            tool=runtime,
            files=", ".join(f"`{name}`" for name in made),
            inputs=", ".join(f"`{name}`" for name in inputs),
            output=output,
            checked="".join(f"- checked: {line}\n" for line in map(_line, checks)),
        )
    return Exported(
        **summary(model, out, format, "float32"),
        bytes=Bytes(before=source.stored.nbytes, after=size),
        inputs=inputs,
        output=output,
        checks=checks,
        notes=_dtype_notes(source, format),
    )


def _dtype_notes(source: Source, format: str) -> list[str]:  # noqa: A002
    """What becomes of weights that are not float32."""
    narrow = sorted({each.dtype for each in source.stored.tensors.values()} & {"F16", "BF16"})
    inner = dict(getattr(source.config, "quantization_config", None) or {}).get("inner") or {}
    kinds = set(inner.get("modules", {}).values())
    notes = []
    if narrow:
        dtypes = " and ".join(checkpoint.DTYPES[name] for name in narrow)
        notes.append(f"weights in {dtypes} are float32 in the graph: they take twice the room")
    if few := sorted(kinds - {"int8"}):
        times = " and ".join(f"{32 / BITS[kind]:.3g}" for kind in few)
        notes.append(
            f"weights in {' and '.join(few)} are float32 in the graph: they take {times} times the room"
        )
    if "int8" in kinds and format == "openvino":
        notes.append(
            "OpenVINO rounds what meets int8 weights to int8 too; it was checked without that, "
            "by DYNAMIC_QUANTIZATION_GROUP_SIZE=0"
        )
    return notes


def _line(check: parity.Deviation) -> str:
    """One comparison in words."""
    return (
        f"{check.batch} x {check.length} tokens, largest difference {check.difference:.1e} "
        f"({check.relative:.1e} of the largest output)"
    )
