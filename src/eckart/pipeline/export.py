"""A compressed model in the form that other tools read."""

from __future__ import annotations

import copy
import shlex
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any

from pydantic import ValidationError

from eckart import checkpoint
from eckart.compression.cuts import Cut
from eckart.compression.manifests import MANIFEST
from eckart.compression.saving import save_folder
from eckart.integrations import asking, onnx, openvino
from eckart.integrations.asking import Compared
from eckart.model import loading, replacing, saving
from eckart.model.portable import QUANT_METHOD
from eckart.pipeline.verify import TOLERANCE
from eckart.types import Bytes, Count, EckartError, Manifest, Recipe, UsageError

GRAPHS = {"onnx": (onnx, "ONNX Runtime"), "openvino": (openvino, "OpenVINO")}
"""Formats that are one graph, and where it is checked."""
FORMATS = ("dense", "gguf-ready", *GRAPHS)
TOKENIZERS = (
    {"tokenizer.json"},
    {"tokenizer.model"},
    {"spiece.model"},
    {"vocab.txt"},
    {"vocab.json", "merges.txt"},
)
"""Files that the converters make a vocabulary from; one set of them is enough."""
CONVERTED = {"F16", "BF16", "F32"}
"""Dtypes that the converters read, as safetensors names them."""
DENSE = "the factors were multiplied out: this gains no size, it is as large as the model before compression"

CARD = """---
tags:
- eckart
- low-rank
---

# {source}, as {tool} reads it

Where a weight has factors, they are two products in the graph. It computes in float32.

- files: {files}
- inputs: {inputs}, 64-bit integers, `(batch, sequence)`, of any batch and length. Pad on the right.
- output: `{output}`
{checked}"""


@dataclass(frozen=True)
class Exported:
    """What became of an export.

    Attributes:
        out: the folder.
        format: `dense`, `gguf-ready`, `onnx` or `openvino`.
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
    checks: list[Compared] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0


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
    started = perf_counter()
    if format not in FORMATS:
        raise UsageError(f"--format {format}: it is one of {', '.join(FORMATS)}")
    destination = Path(out)
    checkpoint.refuse_existing(destination)
    _require_installed(format)
    folder = loading.find_model(model)
    config = loading.load_config(folder)
    _require_exportable(config, format)
    stored = checkpoint.open_checkpoint(folder)
    job = _Job(folder, loading.name_of(model, folder), config, stored, destination, format, check)
    made = job.graph() if format in GRAPHS else job.dense()
    return Exported(**made, seconds=perf_counter() - started)


@dataclass(frozen=True)
class _Job:
    """One export whose request is in order so far."""

    folder: Path
    source: str
    config: Any
    stored: checkpoint.Checkpoint
    out: Path
    format: str
    check: bool

    def dense(self) -> dict[str, Any]:
        """The formats that are plain folders."""
        manifest = _read_manifest(self.folder)
        compressed = getattr(self.config, "quantization_config", None) is not None
        if not compressed and (self.format == "dense" or manifest is None):
            raise UsageError(
                f"{self.folder} is dense already, so there are no factors to multiply out; "
                "--format onnx and openvino take it"
            )
        notes = self._converted() if self.format == "gguf-ready" else []
        needed = self.stored.nbytes if manifest is None else manifest.bytes.before
        checkpoint.refuse_full(self.out, needed)
        questions = asking.ask(loading.load_model(self.folder, dtype="float32")) if self.check else []
        model = loading.load_model(self.folder)
        dtype = str(model.dtype).removeprefix("torch.")
        replacing.merge(model)
        _forget_code(model.config)
        checks = []
        if questions:
            # In float32 on both sides, so that it is the products' rounding that is seen, and no other.
            wide = model if dtype == "float32" else copy.deepcopy(model).float()
            checks = asking.compare(
                questions, asking.run(wide), TOLERANCE.get(dtype, 1e-3), "the dense model"
            )
            del wide
        size = replacing.count_bytes(model)
        notes = [DENSE, *notes]
        made = _merged(manifest or self._unknown(model), model, self.stored.nbytes)
        save_folder(model, None, made, self.folder, self.out)
        return {
            **self._made(model, dtype),
            "bytes": Bytes(before=self.stored.nbytes, after=size),
            "checks": checks,
            "commands": self._commands() if self.format == "gguf-ready" else [],
            "notes": notes,
        }

    def graph(self) -> dict[str, Any]:
        """The formats that are one graph."""
        tool, runtime = GRAPHS[self.format]
        # OpenVINO's is made from the other, which is on the same disk meanwhile.
        copies = 2 if self.format == "openvino" else 1
        checkpoint.refuse_full(self.out, copies * 4 * self.stored.parameters)
        model = loading.load_model(self.folder, dtype="float32")
        replacing.require_finite(model)
        questions = asking.ask(model) if self.check else []
        with checkpoint.appearing(self.out) as temporary:
            inputs, output = tool.write(model, temporary)
            runner = tool.runner(temporary / tool.FILE) if self.check else None
            checks = (
                [] if runner is None else asking.compare(questions, runner, TOLERANCE["float32"], runtime)
            )
            # OpenVINO maps the file as long as it can run it.
            del runner
            made = sorted(path.name for path in temporary.iterdir())
            size = sum((temporary / name).stat().st_size for name in made)
            replacing.undescribe(model.config)
            _forget_code(model.config)
            model.config.save_pretrained(temporary)
            checkpoint.copy_companions(self.folder, temporary)
            # It tells of the weights' files, and they are not here.
            (temporary / MANIFEST).unlink(missing_ok=True)
            card = CARD.format(
                source=self.source,
                tool=runtime,
                files=", ".join(f"`{name}`" for name in made),
                inputs=", ".join(f"`{name}`" for name in inputs),
                output=output,
                checked="".join(f"- checked: {line}\n" for line in map(_line, checks)),
            )
            (temporary / "README.md").write_text(card)
        return {
            **self._made(model, "float32"),
            "bytes": Bytes(before=self.stored.nbytes, after=size),
            "inputs": inputs,
            "output": output,
            "checks": checks,
            "notes": self._in_the_graph(),
        }

    def _made(self, model: Any, dtype: str) -> dict[str, Any]:
        return {
            "out": str(self.out),
            "format": self.format,
            "architecture": saving.stock_class(model).__name__,
            "parameters": replacing.count_parameters(model),
            "dtype": dtype,
            "files": sorted(
                str(path.relative_to(self.out)) for path in self.out.rglob("*") if path.is_file()
            ),
        }

    def _unknown(self, model: Any) -> Manifest:
        """For a model that has factors, and nothing that tells how it got them."""
        count = replacing.count_parameters(model)
        return Manifest(
            eckart=version("eckart"),
            torch=version("torch"),
            transformers=version("transformers"),
            source=self.source,
            recipe=Recipe(method="dense", metric="identity", structure="dense", allocation="uniform"),
            parameters=Count(before=count, after=count, keep=1.0, targets_before=0, targets_after=0),
            bytes=Bytes(before=replacing.count_bytes(model), after=self.stored.nbytes),
            targets=[],
        )

    def _in_the_graph(self) -> list[str]:
        """What becomes of weights that are not float32."""
        narrow = sorted({each.dtype for each in self.stored.tensors.values()} & {"F16", "BF16"})
        inner = dict(getattr(self.config, "quantization_config", None) or {}).get("inner") or {}
        kinds = set(inner.get("modules", {}).values())
        notes = []
        if narrow:
            dtypes = " and ".join(checkpoint.DTYPES[name] for name in narrow)
            notes.append(f"weights in {dtypes} are float32 in the graph: they take twice the room")
        if "int4" in kinds:
            notes.append("weights in int4 are float32 in the graph: they take eight times the room")
        if "int8" in kinds and self.format == "openvino":
            notes.append(
                "OpenVINO rounds what meets int8 weights to int8 too; it was checked without that, "
                "by DYNAMIC_QUANTIZATION_GROUP_SIZE=0"
            )
        return notes

    def _converted(self) -> list[str]:
        """What the converters would lack.

        Raises:
            UsageError: weights in a dtype, or a tokenizer, that they cannot take.
        """
        for name, tensor in self.stored.tensors.items():
            if "F" in tensor.dtype and tensor.dtype not in CONVERTED:
                raise UsageError(
                    f"{name} is stored in {checkpoint.DTYPES[tensor.dtype]}, and llama.cpp's converter takes "
                    "float32, bfloat16 and float16"
                )
        here = {path.name for path in self.folder.iterdir()}
        if not any(files <= here for files in TOKENIZERS):
            wanted = ", ".join(" + ".join(sorted(files, reverse=True)) for files in TOKENIZERS)
            raise UsageError(
                f"{self.folder} has no tokenizer, and the converters need one of {wanted}: put it there first"
            )
        notes = []
        if "tokenizer_config.json" not in here:
            notes.append(
                "no tokenizer_config.json: the converters guess the tokenizer's kind and special tokens"
            )
        if self.config.is_encoder_decoder and not here & {"spiece.model", "tokenizer.model"}:
            notes.append("no spiece.model or tokenizer.model: llama.cpp's converter needs one of them for T5")
        return notes

    def _commands(self) -> list[str]:
        out = shlex.quote(str(self.out))
        return [
            f"python convert_hf_to_gguf.py {out} --outfile {out}.gguf",
            f"ct2-transformers-converter --model {out} --output_dir {out}-ct2",
        ]


def _forget_code(config: Any) -> None:
    """Take the name of the code out that came with a model: neither of these folders has any."""
    if hasattr(config, "auto_map"):
        del config.auto_map


def _line(compared: Compared) -> str:
    """One comparison in words."""
    return (
        f"{compared.batch} x {compared.length} tokens, largest difference {compared.difference:.1e} "
        f"({compared.relative:.1e} of the largest output)"
    )


def _require_installed(format: str) -> None:  # noqa: A002
    """Raises UsageError where what a format is made with is not here."""
    needed = GRAPHS[format][0].NEEDS if format in GRAPHS else ()
    if missing := [name for name in needed if find_spec(name) is None]:
        raise UsageError(f'--format {format} needs {", ".join(missing)}: pip install "eckart[export]"')


def _require_exportable(config: Any, format: str) -> None:  # noqa: A002
    """Raises UsageError where the weights are in a form that this format cannot have."""
    entry = dict(getattr(config, "quantization_config", None) or {})
    if entry and entry.get("quant_method") != QUANT_METHOD:
        raise UsageError(
            f"this model is quantized ({entry.get('quant_method')}); export the float model it came from"
        )
    if format in GRAPHS and entry.get("experts"):
        raise UsageError(
            f"the experts of this model are compressed one by one, and --format {format} cannot follow which "
            "a token takes: export to dense first, and that folder to the graph"
        )


def _read_manifest(folder: Path) -> Manifest | None:
    """What was done to a model, where that is beside it.

    Raises:
        EckartError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise EckartError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def _merged(manifest: Manifest, model: Any, compressed: int) -> Manifest:
    """The manifest of the same model with its factors multiplied out.

    Args:
        compressed: bytes of the weights before that.
    """
    if manifest.merged:
        return manifest
    cut = Cut(manifest.targets, None, manifest.notes).merged()
    before = manifest.parameters.before
    after = replacing.count_parameters(model)
    parameters = manifest.parameters.model_copy(
        update={
            "after": after,
            "keep": after / before,
            "targets_after": manifest.parameters.targets_before,
        }
    )
    return manifest.model_copy(
        update={
            "merged": True,
            "targets": cut.records,
            "parameters": parameters,
            "bytes": Bytes(before=manifest.bytes.before, after=replacing.count_bytes(model)),
            "notes": [*cut.notes, f"with its factors it took {compressed:,} bytes"],
            "files": {},
        }
    )
