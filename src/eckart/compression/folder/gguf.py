"""A model as one GGUF file: dense first where it has structures, then by llama.cpp's own converter."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart import folders
from eckart.compression.folder.export import GGUF_READY, converter_notes, export_dense
from eckart.integrations import llama_cpp, parity
from eckart.integrations.exports import Exported, Source, summary
from eckart.model import gguf_files, loading, probe
from eckart.types import Bytes, EckartError, UsageError

GGUF = "gguf"
FILE = "model.gguf"
TOLERANCES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16", "auto": "bfloat16"}
"""The dtype whose rounding answers may differ by."""
ROUNDED = 0.1
"""The share of the largest output that answers of weights in 8 bits may differ by."""


@dataclass(frozen=True)
class Conversion:
    """Which converter, and what it is to write matrices in."""

    converter: Path
    kind: str


def export_gguf(source: Source, out: Path, how: Conversion, check: bool) -> Exported:
    """Write a folder with `model.gguf`.

    Args:
        source: compressed by Eckart, or any plain folder.
        check: read the file again, by transformers, and compare its answers with the model's own.

    Raises:
        UsageError: the converter would not take the model.
        EckartError: it did not, or the answers differ; nothing was left behind.
    """
    with _plain(source, check) as (folder, said, known):
        model = loading.load_model(folder, dtype="float32")
        with folders.appearing(out) as temporary:
            path = temporary / FILE
            llama_cpp.convert(how.converter, folder, path, how.kind)
            found, unread = _compared(model, path, how.kind) if check else ([], [])
            size = path.stat().st_size
            what = {"format": GGUF, "source": source.name, "files": [FILE], "type": how.kind}
            (temporary / folders.EXPORTED).write_text(json.dumps(what, indent=1) + "\n", encoding="utf-8")
        return Exported(
            **summary(model, out, GGUF, how.kind),
            bytes=Bytes(before=source.stored.nbytes, after=size),
            checks=[*known, *found],
            commands=[f"llama-cli -m {shlex.quote(str(out / FILE))}"],
            notes=[*said, *unread],
        )


@contextmanager
def _plain(source: Source, check: bool) -> Iterator[tuple[Path, list[str], list[parity.Deviation]]]:
    """The folder that the converter reads: the model's own, or one with its factors multiplied out."""
    if getattr(source.config, "quantization_config", None) is None:
        yield source.folder, converter_notes(source), []
        return
    with tempfile.TemporaryDirectory(prefix="eckart-") as scratch:
        made = export_dense(source, Path(scratch) / Path(source.name).name, GGUF_READY, check)
        yield Path(made.out), made.notes, made.checks


def _compared(model: Any, path: Path, kind: str) -> tuple[list[parity.Deviation], list[str]]:
    """How far what is in a file is from a model; or a note, where nothing here reads such a file."""
    with tempfile.TemporaryDirectory(prefix="eckart-") as scratch:
        try:
            folder = gguf_files.unpack(path, Path(scratch) / "read")
        except (EckartError, UsageError) as error:
            return [], [f"what the converter wrote was not read again: {error}"]
        read = loading.load_model(folder, dtype="float32")
        dtype = TOLERANCES.get(kind)
        tolerance = ROUNDED if dtype is None else probe.tolerance(dtype)
        expected = parity.references(model)
        return parity.compare(expected, parity.model_runner(read), tolerance, "the GGUF file"), []
