"""What a model folder holds, from the headers of its safetensors files; and one tensor of it at a time."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from eckart.checkpoint.digests import sha256_of
from eckart.types import EckartError

ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I16": 2, "U16": 2, "F16": 2,
    "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
DTYPES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "I64": "int64", "U64": "uint64", "F64": "float64",
}  # fmt: skip
"""torch's names for them."""
SINGLE = "model.safetensors"
LONGEST_NAME = 200
INDEX = "model.safetensors.index.json"
LARGEST_HEADER = 100_000_000
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.gguf")


@dataclass(frozen=True)
class Stored:
    """One tensor as stored: its dtype in safetensors' spelling, its shape, its file and where it starts."""

    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def torch_dtype(self) -> torch.dtype:
        """In torch's words."""
        dtype: torch.dtype = getattr(torch, DTYPES[self.dtype])
        return dtype


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a model folder by name."""

    folder: Path
    tensors: dict[str, Stored]

    @property
    def files(self) -> list[Path]:
        return sorted({self.folder / stored.file for stored in self.tensors.values()})

    @property
    def nbytes(self) -> int:
        return sum(stored.nbytes for stored in self.tensors.values())

    @property
    def parameters(self) -> int:
        """Floating-point entries: parameters, and float buffers where a model stores some."""
        return sum(prod(stored.shape) for stored in self.tensors.values() if "F" in stored.dtype)

    def read(self, name: str) -> Tensor:
        """One tensor, on the CPU, as stored; no other byte of its file is read.

        By plain reads into memory of its own, not by a map of the file, whose pages would stay.

        Raises:
            EckartError: the file ends within it, or this torch has no such dtype.
        """
        stored = self.tensors[name]
        dtype = getattr(torch, DTYPES[stored.dtype], None)
        path = self.folder / stored.file
        if dtype is None:
            raise EckartError(f"{path}: {name} is of dtype {stored.dtype}, which this torch does not read")
        content = torch.empty(stored.nbytes, dtype=torch.uint8)
        left = content.numpy().data
        with path.open("rb", buffering=0) as file:
            file.seek(stored.start)
            while left:
                count = file.readinto(left)
                if not count:
                    raise EckartError(_broken(path, f"it ends within {name}"))
                left = left[count:]
        return content.view(dtype).reshape(stored.shape)

    def same(self, one: str, other: str) -> bool:
        """Whether two tensors are stored with equal bytes: a tied weight, written twice."""
        return self._digest(one) == self._digest(other)

    def _digest(self, name: str) -> bytes:
        stored = self.tensors[name]
        digest = hashlib.sha256(f"{stored.dtype}{stored.shape}".encode())
        with (self.folder / stored.file).open("rb") as file:
            file.seek(stored.start)
            left = stored.nbytes
            while left:
                piece = file.read(min(left, 1 << 20))
                if not piece:
                    raise EckartError(_broken(self.folder / stored.file, f"it ends within {name}"))
                digest.update(piece)
                left -= len(piece)
        return digest.digest()


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check the headers of every weight file of a folder; no weight is read.

    Raises:
        EckartError: no safetensors weights, or a file that is missing, truncated, corrupt or outside
            the folder.
    """
    # Where both are there, transformers loads the single file.
    if (folder / SINGLE).is_file():
        return Checkpoint(folder, read_file(folder / SINGLE))
    index = folder / INDEX
    if not index.is_file():
        raise EckartError(_no_weights(folder))
    shards = _read_index(index)
    tensors: dict[str, Stored] = {}
    for name in sorted(set(shards.values())):
        tensors |= read_file(folder / name)
    for tensor, name in shards.items():
        if tensor not in tensors or tensors[tensor].file != name:
            raise EckartError(
                f"{folder} is incomplete: {INDEX} says {tensor} is in {name}, and it is not there"
            )
    return Checkpoint(folder, tensors)


def weight_digests(folder: Path) -> dict[str, str]:
    """Hex digests of a model folder's weight files by their names: every byte of the weights."""
    return sha256_of(open_checkpoint(folder).files)


def _read_index(index: Path) -> dict[str, str]:
    """The file of each tensor."""
    try:
        shards = json.loads(index.read_bytes())["weight_map"]
        names = set(shards.values())
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise EckartError(f"{index} is not a safetensors index ({error}); fetch it again") from None
    if not names:
        raise EckartError(f"{index} names no file; fetch it again")
    for name in names:
        if not isinstance(name, str) or not name or Path(name).name != name or name == "..":
            raise EckartError(f"{index} names a file outside its folder: {name!r:.80}; it is refused")
        if not name.endswith(".safetensors") or len(name) > LONGEST_NAME or not name.isprintable():
            raise EckartError(f"{index} names {name!r:.80}, which is no safetensors file; fetch it again")
    return dict(shards)


def _no_weights(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        return f"{folder} is not a model folder: it has no config.json and no weights"
    for pattern in OTHER_WEIGHTS:
        for path in sorted(folder.glob(pattern)):
            return (
                f"{folder} has weights only as {path.name}, and Eckart reads safetensors alone: "
                "convert it first (load and save_pretrained it with transformers where you trust it)"
            )
    return f"{folder} has a config but no weights: model.safetensors or its index is missing"


def read_file(path: Path) -> dict[str, Stored]:
    """The tensors of one file, by its header.

    Raises:
        EckartError: it is missing, truncated or corrupt.
    """
    if not path.is_file():
        raise EckartError(f"{path.parent} is incomplete: its index names {path.name}, which is missing")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, LARGEST_HEADER):
            raise EckartError(_broken(path, "its header is cut short or is not one"))
        raw = file.read(length)
    try:
        header = json.loads(raw)
        header.pop("__metadata__", None)
        unknown = {entry["dtype"] for entry in header.values()} - set(ITEM_BYTES)
        if unknown:
            raise EckartError(f"{path} has tensors of dtype {unknown.pop()}, which Eckart does not read")
        tensors = {
            name: Stored(
                entry["dtype"], tuple(entry["shape"]), path.name, 8 + length + entry["data_offsets"][0]
            )
            for name, entry in header.items()
        }
        end = 0
        for (start, stop), name in sorted((entry["data_offsets"], name) for name, entry in header.items()):
            if start != end or stop - start != tensors[name].nbytes:
                raise EckartError(_broken(path, f"the place of {name} disagrees with its shape"))
            end = stop
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise EckartError(_broken(path, "its header is not one")) from None
    if 8 + length + end != size:
        raise EckartError(_broken(path, f"it has {size:,} bytes where its header says {8 + length + end:,}"))
    return tensors


def _broken(path: Path, why: str) -> str:
    return f"{path} is truncated or corrupt: {why}; fetch or save it again"
