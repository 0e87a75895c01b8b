"""SHA-256 digests of files, of tensors and of what JSON can say."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

BLOCK = 1 << 24


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of(paths: Sequence[Path]) -> dict[str, str]:
    """Hex digests of files by their names; several are read at once."""
    with ThreadPoolExecutor() as pool:
        return dict(zip([path.name for path in paths], pool.map(sha256, paths), strict=True))


def json_digest(pieces: Iterable[object]) -> str:
    """Hex digest of pieces in their order, each as JSON, keys as they come."""
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(json.dumps(piece, default=str).encode() + b"\n")
    return whole.hexdigest()


def digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Hex digest of tensors on any device: names, dtypes, shapes and every byte, in the order given."""
    whole = hashlib.sha256()
    # Blocks are hashed side by side, since hashing one after another is slower than reading them.
    with ThreadPoolExecutor() as pool:
        for name, tensor in tensors:
            whole.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
            for block in pool.map(_sha256, _blocks(tensor)):
                whole.update(block)
    return whole.hexdigest()


def _blocks(tensor: Tensor) -> Iterator[memoryview]:
    flat = tensor.detach().cpu().contiguous().flatten()
    # NumPy has no bfloat16: bytes are bytes.
    view = flat.view(torch.uint8).numpy().data
    return (view[at : at + BLOCK] for at in range(0, len(view), BLOCK))


def _sha256(block: memoryview) -> bytes:
    return hashlib.sha256(block).digest()
