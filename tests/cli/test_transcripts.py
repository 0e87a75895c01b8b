"""What a person sees who types the README's commands: every word, in a pipe and on terminals.

The transcripts lie beside this file, to be read by eye. `ECKART_WRITE_TRANSCRIPTS=1` writes them anew.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from architectures import LLAMA
from outside import Eckart

KEPT = Path(__file__).parent / "transcripts"
LINES = [
    "",
    "plan model",
    "plan model --keep 80%",
    "analyze model",
    "plan model --lora",
    "methods",
    "plan model --keep 2",
    "plan model --kep 80%",
]
JOURNEY = [
    *LINES,
    "compress model -o small --keep 80% --data words.jsonl --method svd-llm",
    "verify small",
    "evaluate small --task perplexity --data words.jsonl",
    "report small -o shown",
    "export small -o plain --format dense",
    "bases model --layers top:1 --targets q_proj --bases 2 --top 2",
    "compress model -o small --keep 80% --method svd",
]
"""All that is done with a model, which takes time."""
NONE: dict[str, str | None] = {"COLUMNS": None, "NO_COLOR": None, "TERM": "xterm-256color"}
PLACES: dict[str, tuple[int | None, dict[str, str | None]]] = {
    "pipe": (None, {}),
    "terminal-60": (60, {}),
    "terminal-200": (200, {}),
    "no-color": (60, {"NO_COLOR": "1"}),
    "dumb": (60, {"TERM": "dumb"}),
}
"""Columns of a terminal, or none, and what else the environment has."""
TIMES = re.compile(r"\b\d+(\.\d+)? (s|ms|GB|minutes?|seconds|times as fast)\b")
SMALL = re.compile(r"\b\d\.\de-\d\d\b")
DECIMALS = re.compile(r"(?<=\d\.)\d+")


@contextmanager
def terminal(columns: int) -> Iterator[tuple[str, list[bytes]]]:
    """The name of a terminal, and what was written to it."""
    main, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    found: list[bytes] = []

    def read() -> None:
        while True:
            try:
                piece = os.read(main, 1 << 16)
            except OSError:  # nobody has the other end any more
                return
            found.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield os.ttyname(far), found
    finally:
        os.close(far)
        reader.join()
        os.close(main)


def steady(said: str) -> str:
    """Without what another machine or hour has otherwise; escapes as they can be read."""
    said = SMALL.sub("#", TIMES.sub(r"# \2", said))
    said = DECIMALS.sub(lambda found: "#" * len(found[0]), said)
    said = said.replace("\r\n", "\n").replace("\x1b", "␛")
    return "\n".join(line.rstrip() for line in said.splitlines())


@pytest.mark.parametrize("place", PLACES)
def test_every_word_is_as_it_was_read(
    place: str, process: Eckart, stored: Any, data: str, tmp_path: Path
) -> None:
    shutil.copytree(stored(LLAMA), tmp_path / "model")
    shutil.copy(data, tmp_path / "words.jsonl")
    columns, settings = PLACES[place]
    pages = []
    for line in JOURNEY if place in ("pipe", "terminal-60") else LINES:
        environment = {**NONE, **settings}
        if columns is None:
            answer = process(*line.split(), environment=environment)
            out, error = answer.out, answer.err
        else:
            with terminal(columns) as (name, found):
                error = process(*line.split(), environment=environment, stdout=name).err
            out = b"".join(found).decode()
        pages.append(
            f"$ eckart {line}\n--- standard output\n{steady(out)}\n--- standard error\n{steady(error)}\n"
        )
    made = "\n".join(pages)
    path = KEPT / f"{place}.txt"
    if os.environ.get("ECKART_WRITE_TRANSCRIPTS"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(made)
    assert made == path.read_text()


@pytest.mark.parametrize("place", PLACES)
def test_what_was_read_holds_what_it_must(place: str) -> None:
    """Nothing is cut away or too wide; colour is where there is some; streams are apart."""
    columns, settings = PLACES[place]
    for page in (KEPT / f"{place}.txt").read_text().split("$ eckart ")[1:]:
        _, _, rest = page.partition("--- standard output\n")
        out, _, error = rest.partition("--- standard error\n")
        assert "…" not in out
        for line in out.splitlines():
            bare = re.sub(r"␛\[[0-9;?]*[A-Za-z]", "", line)
            if columns and re.search(r"[─━│┃]", bare):
                assert len(bare) <= columns
        assert ("␛" in out) <= (columns is not None and settings.get("TERM") != "dumb")
        assert not re.search(r"␛\[[0-9;]*3[0-9]m", out) or "NO_COLOR" not in settings
        assert not re.search(r"^(note|warning|eckart): ", out, flags=re.MULTILINE)
        assert "␛" not in error
        for line in error.strip().splitlines():
            assert re.match(r"(note|warning|eckart): ", line) or re.match(r"\S.*: \d+ of \d+", line), line
