"""Completion as people have it: an interactive shell on a terminal, and the tabulator key."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SHELLS = {
    "bash": (["--norc", "--noprofile", "-i"], "source <(eckart --show-completion bash)"),
    "zsh": (["-f", "-i"], "autoload -U compinit; compinit -u; source <(eckart --show-completion zsh)"),
    "fish": (["--no-config", "-i"], "eckart --show-completion fish | source"),
}
"""How each starts without anybody's own settings, and how completion is switched on."""
TYPED = [
    ("eckart compr\t", r"compress\W"),
    ("eckart compress pocket --method svd-\t", r"svd-llm\W"),
    ("eckart evaluate pocket --task pocket-m\t", r"pocket-math\W"),
]
SECONDS = 120


@contextmanager
def shell(name: str, home: Path) -> Iterator[int]:
    """A terminal on which a shell runs."""
    commands = Path(sys.executable).parent
    settings = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "TERM": "xterm",
        "PS1": "> ",
    }
    settings.pop("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", None)
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe(name, [name, *SHELLS[name][0]], settings)
    try:
        yield terminal
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(terminal)


def seen(terminal: int, wanted: str) -> str:
    """What comes until it has what is wanted."""
    found, end = "", time.monotonic() + SECONDS
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.2)[0]:
            found += os.read(terminal, 1 << 16).decode(errors="replace")
            if re.search(wanted, re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", " ", found)):
                return found
    raise AssertionError(f"no {wanted} in {found!r}")


@pytest.mark.parametrize("name", SHELLS)
def test_the_tabulator_key_completes(name: str, tmp_path: Path) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"no {name} here")
    with shell(name, tmp_path) as terminal:
        # The word that is waited for is not in what is typed.
        os.write(terminal, f'{SHELLS[name][1]}; echo rea""dy\n'.encode())
        seen(terminal, "ready")
        for typed, wanted in TYPED:
            os.write(terminal, typed.encode())
            seen(terminal, wanted)
            os.write(terminal, b"\x15")
