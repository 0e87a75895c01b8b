"""llama.cpp's own converter of Hugging Face folders: found where it is, asked, and listened to."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from eckart.model.configs import said
from eckart.types import EckartError, UsageError

SCRIPT = "convert_hf_to_gguf.py"
HOME = "LLAMA_CPP"
"""The environment variable that names llama.cpp's folder."""
TYPES = ("auto", "f32", "f16", "bf16", "q8_0")
"""What the converter writes matrices in; `auto` is the best of 16 bits."""
WHERE = (
    f"give --converter FILE, or llama.cpp's folder in ${HOME}. It is in llama.cpp's repository, and in the "
    "source package of llama-cpp-python (vendor/llama.cpp): pip download --no-deps --no-binary "
    "llama-cpp-python llama-cpp-python"
)


def find_converter(given: str | Path | None) -> Path:
    """The converter's script: as given, else of `$LLAMA_CPP`, else on the path.

    Args:
        given: the script, or the folder that it is in.

    Raises:
        UsageError: it is not there, or nowhere; says how to get it.
    """
    named = given if given is not None else os.environ.get(HOME) or None
    if named is not None:
        path = Path(named)
        script = path / SCRIPT if path.is_dir() else path
        if not script.is_file():
            raise UsageError(f"{script} is not there: {WHERE}")
        return script
    found = shutil.which(SCRIPT)
    if found is None:
        raise UsageError(f"--format gguf is made by llama.cpp's {SCRIPT}, which is not on the path: {WHERE}")
    return Path(found)


def convert(converter: Path, folder: Path, path: Path, kind: str) -> None:
    """Have a plain folder written as one GGUF file.

    Args:
        kind: one of `TYPES`.

    Raises:
        UsageError: the converter lacks a package.
        EckartError: it failed, in its own last words.
    """
    command = [sys.executable, str(converter), str(folder), "--outfile", str(path), "--outtype", kind]
    quiet = {**os.environ, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=quiet, check=False)
    except OSError as error:
        raise EckartError(f"{converter} could not be run: {said(error)}") from error
    if done.returncode or not path.is_file():
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        why = lines[-1] if lines else f"it ended with {done.returncode}"
        if lacking := re.search(r"No module named '([\w.]+)'", why):
            raise UsageError(
                f"llama.cpp's converter needs {lacking[1]}, which is not installed here: pip install "
                f"{lacking[1]}"
            )
        raise EckartError(f"llama.cpp's converter does not take this model: {why}; nothing was exported")
