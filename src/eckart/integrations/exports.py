"""What is exported, and what an export gives back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eckart.checkpoint import Checkpoint
from eckart.integrations.parity import Deviation
from eckart.model import replacing, saving
from eckart.model.portable import QUANT_METHOD
from eckart.types import Bytes, Shown, UsageError


@dataclass(frozen=True)
class Source:
    """The folder of a model to be exported.

    Attributes:
        folder: where it is.
        name: of the model.
        config: as transformers reads it.
        stored: the headers of its weights.
    """

    folder: Path
    name: str
    config: Any
    stored: Checkpoint


@dataclass(frozen=True, repr=False)
class Exported(Shown):
    """What `eckart.export` gives back.

    Attributes:
        out: the folder.
        format: `dense`, `gguf-ready`, `gguf`, `onnx` or `openvino`.
        architecture: the class of the model in transformers.
        parameters: of what was written.
        dtype: that its weights are in.
        bytes: of the weights' files, before and after.
        files: all that is in the folder, by their paths in it.
        inputs, output: their names in the graph; of a folder none.
        checks: how far its answers are from the model's own; empty where that was not asked.
        commands: what to run next.
        notes: what a user should know.
        seconds: wall time.
    """

    out: str
    format: str
    architecture: str
    parameters: int
    dtype: str
    bytes: Bytes
    files: list[str]
    inputs: list[str] = field(default_factory=list)
    output: str | None = None
    checks: list[Deviation] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def in_a_line(self) -> str:
        """What was written where, and how large it is."""
        size = f"{self.bytes.after / 1e6:,.1f} MB"
        return f"{self.out}: {self.format}, {self.architecture} in {self.dtype}, {size}"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each file."""
        return ("file",), ((name,) for name in self.files)


def require_float(config: Any) -> None:
    """Raises UsageError where weights are quantized by another tool than Eckart."""
    entry = dict(getattr(config, "quantization_config", None) or {})
    if entry and entry.get("quant_method") != QUANT_METHOD:
        raise UsageError(
            f"this model is quantized ({entry.get('quant_method')}); export the float model it came from"
        )


def remove_code(config: Any) -> None:
    """Take the name of the code out that came with a model: what is exported brings none."""
    if hasattr(config, "auto_map"):
        del config.auto_map


def summary(model: Any, out: Path, format: str, dtype: str) -> dict[str, Any]:  # noqa: A002
    """The fields of `Exported` that all formats have in common, once the folder is written."""
    return {
        "out": str(out),
        "format": format,
        "architecture": saving.stock_class(model).__name__,
        "parameters": replacing.count_parameters(model),
        "dtype": dtype,
        "files": sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()),
    }
