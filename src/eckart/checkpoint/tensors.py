"""Named tensors and a few words about them in one file, whole or not at all, and never read damaged."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from eckart.checkpoint.digests import digest
from eckart.types import EckartError

SUFFIX = ".safetensors"
WORDS = "eckart"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], words: dict[str, Any]) -> None:
    """Write a file that appears whole or not at all; one that is there already is replaced.

    Two processes that write the same file at once both succeed, and one of the files stays.

    Args:
        words: anything that JSON can say.

    Raises:
        EckartError: it cannot be written; nothing is left behind.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    said = json.dumps({"words": words, "sha256": digest(stored.items())})
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Its suffix is the file's own, so that whoever tidies the folder sees what a crash left there too.
        handle, temporary = tempfile.mkstemp(prefix=f".{path.stem[:32]}-", suffix=SUFFIX, dir=path.parent)
        os.close(handle)
        save_file(stored, temporary, metadata={WORDS: said})
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise EckartError(f"{path} could not be written ({why}); nothing was left behind") from error
    finally:
        # After the replacement there is nothing under that name.
        if temporary is not None:
            with suppress(OSError):
                os.unlink(temporary)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of a file that `write_tensors` wrote, on the CPU, and the words.

    Raises:
        EckartError: it is not one, or not as it was written: every byte is checked.
    """
    try:
        with safe_open(path, framework="pt") as file:
            said = json.loads(file.metadata()[WORDS])
            tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        words, expected = said["words"], said["sha256"]
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise EckartError(f"{path} is not a file of tensors that Eckart wrote, or is damaged") from error
    if digest(tensors.items()) != expected:
        raise EckartError(f"{path} is damaged: its tensors are not the ones that were written")
    return tensors, words
