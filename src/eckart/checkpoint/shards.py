"""A model's weights as one file for each part of it, and the index that says which is where."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from eckart.checkpoint.reading import INDEX, Checkpoint, read_file
from eckart.folders import replace_file
from eckart.types import EckartError


def shard_name(part: int, parts: int) -> str:
    """The name of a file, from 0, as transformers names its own."""
    return f"model-{part + 1:05}-of-{parts:05}.safetensors"


def write_shard(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a file that appears whole or not at all.

    Raises:
        EckartError: it cannot be written, on a full disk say; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}")
    try:
        stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(stored, temporary, metadata={"format": "pt"})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or error
        raise EckartError(f"{path} could not be written ({why})") from error


def read_shard(path: Path) -> Checkpoint:
    """What one file holds, by its header.

    Raises:
        EckartError: it is damaged.
    """
    return Checkpoint(path.parent, read_file(path))


def write_index(folder: Path, names: Sequence[str]) -> None:
    """Write the index of these files."""
    tensors = {name: stored for file in names for name, stored in read_shard(folder / file).tensors.items()}
    index = {
        "metadata": {
            "total_parameters": sum(prod(stored.shape) for stored in tensors.values()),
            "total_size": sum(stored.nbytes for stored in tensors.values()),
        },
        "weight_map": {name: tensors[name].file for name in sorted(tensors)},
    }
    replace_file(folder / INDEX, (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
