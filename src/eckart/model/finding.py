"""What the name of a model can mean, before anything is opened. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path

from eckart.types import UsageError

GGUF = ".gguf"
ADAPTER = "adapter_config.json"
"""What a folder of peft's has."""


def is_gguf(path: Path) -> bool:
    """Whether a path is that of a GGUF file, by its name."""
    return path.suffix.lower() == GGUF and path.is_file()


def require_there(name: str) -> None:
    """Look whether there is a model of a name, as far as this machine can say: a hub id may be there.

    Raises:
        UsageError: it can only be a path, and is neither a folder's nor a GGUF file's.
    """
    path = Path(name)
    if path.is_dir() or is_gguf(path) or name == "pocket":
        return
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UsageError(f"no such model: {name} is not a folder")


def require_folder(path: str | Path) -> None:
    """Raises UsageError where a path is not that of a folder."""
    if not Path(path).is_dir():
        raise UsageError(f"{path} is not a folder")
