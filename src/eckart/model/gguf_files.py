"""A model in one GGUF file, as llama.cpp has them, into a plain folder that everything else reads."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.models.auto import modeling_auto

from eckart import checkpoint, folders
from eckart.model.configs import said
from eckart.model.quietness import quiet
from eckart.types import EckartError, UsageError

MAGIC = b"GGUF"
UNPACKED = "unpacked"
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of matrices that are floats; what is quantized becomes bfloat16."""
FACTORS = "rope_freqs"
CARD = {"license": "general.license", "language": "general.languages", "tags": "general.tags"}
"""Of a model's card, and where a GGUF file has it."""


def unpacked(path: Path, weights: bool = True) -> Path:
    """The folder of a GGUF file, made once and kept in the cache: config, tokenizer, and weights as floats.

    Args:
        weights: whether the weights too; without them a config alone is made.

    Raises:
        UsageError: the package gguf is not there.
        EckartError: it is damaged, one file of several, or of a model that transformers does not read so.
    """
    _require_readable(path)
    state = path.stat()
    key = checkpoint.json_digest([[str(path.resolve()), state.st_size, state.st_mtime_ns]])
    kind = UNPACKED if weights else "configs"
    folder = checkpoint.cache_dir() / kind / key[:16] / path.name
    if not folder.is_dir():
        _made(path, folder, weights)
    return folder


def unpack(path: Path, folder: Path) -> Path:
    """Make a folder of a GGUF file, as `unpacked` does in the cache."""
    _require_readable(path)
    _made(path, folder, weights=True)
    return folder


def _require_readable(path: Path) -> None:
    if find_spec("gguf") is None:
        raise UsageError(f"{path} is a GGUF file, and reading it takes a package: pip install 'eckart[gguf]'")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise EckartError(f"{path} is no GGUF file: it begins with other bytes")


def _made(path: Path, folder: Path, weights: bool) -> None:
    reader = _opened(path)
    if weights:
        floats = sum(int(each.n_elements) for each in reader.tensors) * _dtype(reader).itemsize
        folders.refuse_full(folder, floats)
    with folders.appearing(folder) as made:
        _unpack(path, reader, made, weights)


def _opened(path: Path) -> Any:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        parts = reader.get_field("split.count")
        count = 1 if parts is None else int(parts.contents())
    except Exception as error:  # of a parser on any bytes
        raise EckartError(f"{path} is not a GGUF file that can be read: {said(error)}") from error
    if count > 1:
        raise EckartError(
            f"{path} is one of {count} files: put them together with llama-gguf-split --merge, and give that"
        )
    return reader


def _unpack(path: Path, reader: Any, folder: Path, weights: bool) -> None:
    named = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        # A bar of transformers' own is there whatever its verbosity is.
        with quiet(), redirect_stderr(io.StringIO()):
            config = AutoConfig.from_pretrained(path.parent, **named)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **named)
            model = _loaded(path, config, _dtype(reader)) if weights else None
    except EckartError:
        raise
    except Exception as error:  # of transformers and of gguf, on any metadata
        raise EckartError(f"{path} is of a model that transformers does not read: {said(error)}") from error
    with quiet():
        tokenizer.save_pretrained(folder)
        if model is None:
            config.architectures = [_class_for(config)._model_mapping[type(config)].__name__]
            config.dtype = _dtype(reader)
            config.save_pretrained(folder)
        else:
            _require_all(path, reader, model)
            model.save_pretrained(folder)
    _write_card(reader, folder)


def _class_for(config: Any) -> Any:
    if config.is_encoder_decoder:
        return AutoModelForSeq2SeqLM
    writes = type(config) in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForCausalLM if writes else AutoModel


def _loaded(path: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model with its weights as floats, and nothing that says where they are from."""
    read, info = _class_for(config).from_pretrained(
        path.parent,
        gguf_file=path.name,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=False,
    )
    for what in ("missing_keys", "mismatched_keys"):
        if names := sorted(map(str, info[what])):
            raise EckartError(f"{path} does not make a {type(read).__name__}: {names[0]} is not in it")
    config = type(read.config).from_dict({**read.config.to_dict(), "quantization_config": None})
    del config.quantization_config
    config.dtype = dtype
    # What was read keeps the loader that it came by, and refuses to be saved.
    with torch.device("meta"):
        plain = type(read)._from_config(config, dtype=dtype)
    weights = {name: each.to(dtype) for name, each in read.state_dict().items()}
    plain.load_state_dict(weights, assign=True)
    plain.tie_weights()
    plain.generation_config = read.generation_config
    return plain


def _require_all(path: Path, reader: Any, model: Any) -> None:
    """Raises EckartError where the file holds numbers that became no weight."""
    stored = sum(int(each.n_elements) for each in reader.tensors)
    used = sum(each.numel() for each in model.parameters())
    if stored == used:
        return
    left = [each.name for each in reader.tensors if FACTORS in each.name]
    if left:
        raise EckartError(
            f"{path} scales its rotary positions by {left[0]}, which transformers does not read out of a "
            "GGUF file: longer texts would be read wrongly. Take the model's safetensors"
        )
    raise EckartError(
        f"{path} holds {stored:,} numbers and {type(model).__name__} has {used:,}: transformers would read "
        "something else than is in it. Take the model's safetensors"
    )


def _dtype(reader: Any) -> torch.dtype:
    """Of the matrices; bfloat16 where one is quantized, as what was lost there is far more."""
    kinds = {each.tensor_type.name for each in reader.tensors if len(each.shape) > 1}
    return FLOATS.get(kinds.pop(), torch.bfloat16) if len(kinds) == 1 else torch.bfloat16


def _write_card(reader: Any, folder: Path) -> None:
    """Licence, language and tags of the file, where a card has them."""
    found = {}
    for name, key in CARD.items():
        field = reader.get_field(key)
        if field is not None and (value := field.contents()):
            found[name] = value
    card = f"---\n{ModelCardData(**found).to_yaml()}\n---\n"
    (folder / "README.md").write_text(card, encoding="utf-8")
