"""A compressed model as a dense folder again, for tools that know no factors."""

from __future__ import annotations

import copy
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eckart import checkpoint, folders
from eckart.compression.cuts import Cut
from eckart.compression.folder.manifests import read_manifest
from eckart.compression.folder.saving import save_folder
from eckart.integrations import parity
from eckart.integrations.exports import Exported, Source, remove_code, summary
from eckart.model import loading, probe, replacing
from eckart.types import Bytes, Count, Manifest, Recipe, UsageError

DENSE = "dense"
GGUF_READY = "gguf-ready"
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
NO_GAIN = (
    "the factors were multiplied out: this gains no size, it is as large as the model before compression"
)


def export_dense(source: Source, out: Path, format: str, check: bool) -> Exported:  # noqa: A002
    """Multiply the factors out, and write the dense model as a plain folder.

    Args:
        format: `dense`, or `gguf-ready`, where what converters need is looked at too.
        check: compare the dense model's outputs with the compressed one's, at two shapes.

    Raises:
        UsageError: there are no factors, or the converters would not take the model.
        EckartError: the work failed, or the outputs differ; nothing was left behind.
    """
    manifest = read_manifest(source.folder)
    compressed = getattr(source.config, "quantization_config", None) is not None
    if not compressed and (format == DENSE or manifest is None):
        raise UsageError(
            f"{source.folder} is dense already, so there are no factors to multiply out; "
            "--format onnx and openvino take it"
        )
    notes = converter_notes(source) if format == GGUF_READY else []
    needed = source.stored.nbytes if manifest is None else manifest.bytes.before
    folders.refuse_full(out, needed)
    expected = parity.references(loading.load_model(source.folder, dtype="float32")) if check else []
    model = loading.load_model(source.folder)
    dtype = str(model.dtype).removeprefix("torch.")
    replacing.merge(model)
    remove_code(model.config)
    checks = []
    if expected:
        # In float32 on both sides, so that it is the products' rounding that is seen, and no other.
        wide = model if dtype == "float32" else copy.deepcopy(model).float()
        runner = parity.model_runner(wide)
        checks = parity.compare(expected, runner, probe.tolerance(dtype), "the dense model")
        del wide, runner
    size = replacing.count_bytes(model)
    made = _merged(manifest or _unknown_origin(source, model), model, source.stored.nbytes)
    save_folder(model, None, made, source.folder, out)
    return Exported(
        **summary(model, out, format, dtype),
        bytes=Bytes(before=source.stored.nbytes, after=size),
        checks=checks,
        commands=_converter_commands(out) if format == GGUF_READY else [],
        notes=notes if made.narrow else [NO_GAIN, *notes],
    )


def _unknown_origin(source: Source, model: Any) -> Manifest:
    """A manifest for a model that has factors, and nothing that tells how it got them."""
    count = replacing.count_parameters(model)
    return Manifest(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=source.name,
        recipe=Recipe(method="dense", metric="identity", structure="dense", allocation="uniform"),
        parameters=Count(before=count, after=count, keep=1.0, targets_before=0, targets_after=0),
        bytes=Bytes(before=replacing.count_bytes(model), after=source.stored.nbytes),
        targets=[],
    )


def converter_notes(source: Source) -> list[str]:
    """What llama.cpp's and CTranslate2's converters would lack.

    Raises:
        UsageError: weights in a dtype, or a tokenizer, that they cannot take.
    """
    for name, tensor in source.stored.tensors.items():
        if "F" in tensor.dtype and tensor.dtype not in CONVERTED:
            raise UsageError(
                f"{name} is stored in {checkpoint.DTYPES[tensor.dtype]}, and llama.cpp's converter takes "
                "float32, bfloat16 and float16"
            )
    here = {path.name for path in source.folder.iterdir()}
    if not any(files <= here for files in TOKENIZERS):
        wanted = ", ".join(" + ".join(sorted(files, reverse=True)) for files in TOKENIZERS)
        raise UsageError(
            f"{source.folder} has no tokenizer, and the converters need one of {wanted}: put it there first"
        )
    notes = []
    if "tokenizer_config.json" not in here:
        notes.append("no tokenizer_config.json: the converters guess the tokenizer's kind and special tokens")
    if source.config.is_encoder_decoder and not here & {"spiece.model", "tokenizer.model"}:
        notes.append("no spiece.model or tokenizer.model: llama.cpp's converter needs one of them for T5")
    return notes


def _converter_commands(out: Path) -> list[str]:
    folder = shlex.quote(str(out))
    return [
        f"python convert_hf_to_gguf.py {folder} --outfile {folder}.gguf",
        f"ct2-transformers-converter --model {folder} --output_dir {folder}-ct2",
    ]


def _merged(manifest: Manifest, model: Any, compressed: int) -> Manifest:
    """The manifest of the same model with its factors multiplied out.

    Args:
        compressed: bytes of the weights before that.
    """
    if manifest.plain:
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
