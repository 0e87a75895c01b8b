"""The processes of a comparison, one a method: started, listened to, and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from eckart.comparison.protocol import ComparisonFolder, Request
from eckart.types import ComparisonRow, EckartError, Track, UsageError

START = "from eckart.registration import hush; hush(); from eckart.comparison.worker import main; main()"
WORKER = [sys.executable, "-P", "-c", START]
"""Without the working directory on its path: a user's `random.py` there is not Python's."""

OnRow = Callable[[ComparisonRow], None]


class Run:
    """Processes one after the other, whose rows go into a folder.

    Args:
        total: how many rows are to come.
        track: shows what each process is at.
        on_row: called with each row once it is on the disk.
    """

    def __init__(self, folder: ComparisonFolder, total: int, track: Track, on_row: OnRow | None) -> None:
        self.folder, self.total, self.track, self.on_row = folder, total, track, on_row
        self.done = 0

    def all(self, requests: Sequence[Request]) -> None:
        """Ask for each method.

        Raises:
            EckartError: the dense model could not be measured, or a row not be written.
        """
        for request in requests:
            self._method(request)

    def _method(self, request: Request) -> None:
        """Take the rows of one method; sizes that its process does not come to have failed."""
        left, failed = list(request.keeps), None
        with _process(request) as (process, errors):
            for message in self._messages(process, request.method):
                if "row" in message:
                    row = ComparisonRow.model_validate(message["row"])
                    left.remove(row.keep)
                    self._add(row)
                elif "note" in message:
                    self._note(request, message)
                elif "error" in message:
                    failed = message
            code = process.wait()
            if failed is None and left:
                failed = {"error": _how_it_ended(code, errors), "exit_code": 1}
        if failed is None:
            return
        if request.recipe is None:
            kind = UsageError if failed["exit_code"] == UsageError.exit_code else EckartError
            raise kind(failed["error"])
        for keep in left:
            self._add(
                ComparisonRow(
                    method=request.method,
                    keep=keep,
                    of=request.protocol.of,
                    task=request.protocol.task,
                    error=failed["error"],
                )
            )

    def _add(self, row: ComparisonRow) -> None:
        self.folder.add(row)
        self.done += 1
        if self.on_row is not None:
            self.on_row(row)

    def _note(self, request: Request, message: dict[str, Any]) -> None:
        # What stays dense whatever the method is told once, not by each of them.
        if message["note"] not in self.folder.kept.notes:
            at = f" at {message['keep']:g}" if "keep" in message else ""
            self.folder.note(f"{request.method}{at}: {message['note']}")

    def _messages(self, process: subprocess.Popen[str], method: str) -> Iterator[dict[str, Any]]:
        """What a process says beside its progress, which is shown."""
        lines = _lines(process)
        message = next(lines, None)
        while message is not None:
            if "begin" in message:
                steps = _Steps(lines)
                what = f"{self.done + 1} of {self.total}, {method}: {message['begin']}"
                for _ in self.track(steps, what, message["total"]):
                    pass
                message = steps.after
                continue
            if "step" not in message:
                yield message
            message = next(lines, None)


class _Steps:
    """The steps of one loop in another process, and what it says after them."""

    def __init__(self, lines: Iterator[dict[str, Any]]) -> None:
        self.lines = lines
        self.after: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[None]:
        for message in self.lines:
            if "step" not in message:
                self.after = message
                return
            yield


def _lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        if not line.endswith("\n"):  # it was ended by force
            return
        yield json.loads(line)


@contextmanager
def _process(request: Request) -> Iterator[tuple[subprocess.Popen[str], IO[bytes]]]:
    """A process at work on a request, and what it says on standard error; ended on the way out."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            WORKER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if request.debug else errors,
            env=environment,
            text=True,
        )
        try:
            assert process.stdin is not None
            # Left open: when this process ends, however it does, that closes it, and the other ends too.
            with suppress(BrokenPipeError):  # what it died of is told where it is listened to
                process.stdin.write(request.model_dump_json() + "\n")
                process.stdin.flush()
            yield process, errors
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    assert pipe is not None
                    pipe.close()


def _how_it_ended(code: int, errors: IO[bytes]) -> str:
    if code < 0:
        name = signal.Signals(-code).name
        return f"its process was ended by {name}" + (
            ", as the system does where memory runs out" if -code == signal.SIGKILL else ""
        )
    errors.seek(0)
    last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
    return f"its process ended with exit code {code}" + "".join(f": {line}" for line in last)
