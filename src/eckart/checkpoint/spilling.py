"""Tensors that nobody needs for a while, on disk once there are too many of them for memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

LEAST_BYTES = 1 << 16
"""Smaller tensors stay where they are."""


class Spill:
    """Holds tensors in memory up to a limit, and what comes after that on disk, in the place of its memory.

    A tensor that is away has no values: reading it is an error. Everybody who holds it holds the same
    storage, so its memory is really given up. Used as a context, it takes its files with it.

    Args:
        folder: where to make a folder for the files.
        limit: bytes that may wait in memory.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.limit, self.held, self.spilled = limit, 0, 0
        self._folder = tempfile.TemporaryDirectory(prefix=".spill-", dir=folder)
        self._waiting: dict[int, tuple[Tensor, Path | None]] = {}

    def away(self, tensor: Tensor) -> None:
        """Let a tensor wait. One that shares its memory with others, or waits already, stays as it is."""
        storage = tensor.untyped_storage()
        size = tensor.numel() * tensor.element_size()
        whole = storage.nbytes() == size and tensor.is_contiguous() and storage.resizable()
        if not (whole and tensor.is_floating_point() and size >= LEAST_BYTES) or id(tensor) in self._waiting:
            return
        path = None
        if self.held + size > self.limit:
            path = Path(self._folder.name) / f"{id(tensor)}"
            # Of a copy: memory that NumPy has seen cannot be given up.
            content = tensor.detach().cpu().clone().flatten().view(torch.uint8)
            content.numpy().tofile(path)
            storage.resize_(0)
            self.spilled += size
        else:
            self.held += size
        self._waiting[id(tensor)] = tensor, path

    def back(self, tensor: Tensor) -> None:
        """Have a tensor again that was let wait; any other stays as it is."""
        if id(tensor) not in self._waiting:
            return
        _, path = self._waiting.pop(id(tensor))
        size = tensor.numel() * tensor.element_size()
        if path is None:
            self.held -= size
            return
        content = torch.empty(size, dtype=torch.uint8)
        with path.open("rb", buffering=0) as file:
            left = memoryview(content.numpy())  # type: ignore[arg-type]
            while left:
                left = left[file.readinto(left) or len(left) :]
        path.unlink()
        tensor.untyped_storage().resize_(size)
        tensor.detach().copy_(content.view(tensor.dtype).reshape(tensor.shape))

    def close(self) -> None:
        """Forget what still waits."""
        self._waiting.clear()
        self._folder.cleanup()

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
