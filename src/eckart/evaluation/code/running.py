"""Programs in, outcomes out: behind limits, several at once, in the order they came.

What is kept from a program, and what is not, is in `PERMISSION` and, of this machine, in `protection`.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from eckart.types import EckartError, Track, UsageError, silent

SECONDS = 10.0
MEMORY = 2**30
RUNNING = "running code"
"""What this work is called where its progress is shown."""
WORKERS = 4
"""At most, unless told otherwise: each may take `MEMORY`."""

PERMISSION = (
    "this task runs code that the model wrote on this machine. Each program gets a process and an empty "
    "folder of its own, no input, an empty environment, and limits on time, memory and the size of "
    "a file. What more is kept from it depends on the machine (docs/sandbox.md has the table). Here: {here}. "
    "To run it, pass --allow-code-execution"
)

_KEEPER = Path(__file__).with_name("keeper")
# Tried in this order; where none stands, Python itself refuses what it can.
_WALLS = ("bubblewrap", "namespaces", "nobody", "landlock", "seccomp")
_START_SECONDS = 60.0
_KEEPER_INSIDE, _FOLDER_INSIDE = "/keeper", "/program"
"""Where they lie in a root of its own."""
# Beyond a program's own time: what ending it may take on a busy machine.
_SPARE_SECONDS = 60.0
# String hashes that differ from run to run would make programs that print a set pass now and then. One
# thread, since a library that starts one for each core needs memory for each.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Outcome:
    """How one program ended.

    Attributes:
        passed: it ran to its end.
        why: "passed", "wrong" (an assertion failed), "error: NameError: …", "out of time", "out of
            memory", or "killed …".
    """

    passed: bool
    why: str


def require_permission(allowed: bool) -> None:
    """Refuse to run generated code unless somebody who read what that means allowed it.

    Raises:
        UsageError: not allowed, or a system on which it cannot be run.
    """
    if not hasattr(os, "fork"):
        raise UsageError("generated code runs on Linux and macOS only: this system cannot limit it")
    if not allowed:
        raise UsageError(PERMISSION.format(here=protection()))


def run_programs(
    programs: Sequence[str],
    *,
    seconds: float = SECONDS,
    memory_bytes: int = MEMORY,
    workers: int | None = None,
    track: Track = silent,
) -> list[Outcome]:
    """Run each program in a fresh process, and say which ran to their ends. In the order given.

    A program passes by reaching its last line without an exception: `sys.exit(0)` or `os._exit(0)` before
    it do not pass. It reports through a pipe with a token that it was not told, which stands in its own
    memory all the same: a program written to cheat can find it.

    Args:
        programs: whole Python programs, with their tests. Each runs as a module named `program`.
        seconds: wall clock for each; all its processes are killed then.
        memory_bytes: address space of each process, the interpreter's own (about 50 MB) included. macOS
            does not limit it, nor end what a program started and moved to another process group.
        workers: programs at a time; by default as many as there are cores, 4 at most.
        track: shows progress.

    Raises:
        ValueError: limits that nothing can run in.
        EckartError: the process that runs them does not start or does not hold its limits.
    """
    if seconds <= 0 or memory_bytes <= 0 or (workers is not None and workers < 1):
        raise ValueError("seconds, memory and workers have to be more than nothing")
    workers = min(workers or min(WORKERS, _cores()), len(programs))
    with ExitStack() as stack:
        keepers = [stack.enter_context(closing(_Keeper())) for _ in range(workers)]
        outcomes = _outcomes(programs, keepers, seconds, memory_bytes)
        found = dict(track(outcomes, RUNNING, len(programs)))
    return [found[index] for index in range(len(programs))]


@cache
def _standing() -> tuple[list[str], bool]:
    """The walls that stand on this machine, found by trying them, and whether memory is limited."""
    with closing(_Keeper()) as keeper:
        return keeper.walls, keeper.limits_memory


def protection() -> str:
    """Which of the walls stand on this machine, in words."""
    return _in_words(*_standing())


def left_open() -> list[str]:
    """What the walls of this machine do not keep from a program, in words; nothing is the best answer."""
    return _open_behind(*_standing())


def _in_words(walls: Sequence[str], limits_memory: bool) -> str:
    names = {
        "bubblewrap": "bubblewrap",
        "namespaces": "namespaces of its own",
        "nobody": "the user nobody",
        "landlock": "Landlock",
        "seccomp": "seccomp",
        "audit": "Python's own audit hook",
    }
    left = _open_behind(walls, limits_memory)
    return f"behind {', '.join(names[wall] for wall in walls)}; " + (
        f"not kept from it: {'; '.join(left)}"
        if left
        else "the network, other processes and files are closed"
    )


def _open_behind(walls: Sequence[str], limits_memory: bool) -> list[str]:
    alone = "bubblewrap" in walls or "namespaces" in walls
    hidden = "bubblewrap" in walls or "landlock" in walls
    found = {
        "the network, which Python alone refuses, and a program can get around that": alone
        or "seccomp" in walls,
        "signals to your other processes": alone or "seccomp" in walls or "nobody" in walls,
        "reading the files that you can read": hidden,
        "writing where you can write": alone or "landlock" in walls,
        "memory without limit": limits_memory,
    }
    if "nobody" in walls and not hidden:
        # Another user: what everybody may.
        del found["reading the files that you can read"], found["writing where you can write"]
        found["the files that every user can read or write"] = False
    return [words for words, closed in found.items() if not closed]


@cache
def _bubblewrap() -> tuple[str, ...]:
    """The command before Python's, of a sandbox that starts here; empty where there is none.

    A new root with nothing in it but Python and what Python needs, read-only; processes, a network, users
    and IPC of its own. Programs are in a PID namespace with their keeper, and everything ends with it.
    """
    from eckart.evaluation.code.keeper.walls import DEVICES, PLACE_BYTES, VISIBLE

    program = shutil.which("bwrap")
    if program is None:
        return ()
    spaces = [f"--unshare-{each}" for each in ("user", "pid", "net", "ipc", "uts", "cgroup-try")]
    shown = [word for path in VISIBLE for word in ("--ro-bind-try", path, path)]
    devices = [word for path in DEVICES for word in ("--dev-bind", path, path)]
    command = (
        *(program, "--die-with-parent", "--new-session", *spaces, "--uid", "65534", "--gid", "65534"),
        *(*shown, *devices, "--ro-bind", str(_KEEPER), _KEEPER_INSIDE),
        *(
            "--size",
            str(PLACE_BYTES),
            "--tmpfs",
            _FOLDER_INSIDE,
            "--remount-ro",
            "/",
            "--chdir",
            _FOLDER_INSIDE,
        ),
    )
    asked = [*command, sys.executable, "-c", "import json, ctypes"]
    try:
        done = subprocess.run(
            asked, env=_ENVIRONMENT, capture_output=True, timeout=_START_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return command if done.returncode == 0 else ()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Keeper:
    """The process that forks a process for each program; started again if it is lost.

    Raises:
        EckartError: it does not start.
    """

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        sandbox = _bubblewrap() if "bubblewrap" in _WALLS else ()
        self._folder = None if sandbox else tempfile.mkdtemp(prefix="eckart-code-")
        python = [sys.executable, "-s", "-P", _KEEPER_INSIDE if sandbox else str(_KEEPER)]
        walls = [wall for wall in _WALLS if sandbox or wall != "bubblewrap"]
        self._process = subprocess.Popen(
            [*sandbox, *python, self._folder or _FOLDER_INSIDE, *walls],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._folder or "/",
            env=_ENVIRONMENT,
            # Ctrl-C is for the process that asked, which ends this one.
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._stdout = self._process.stdout
        hello = self._read() if wait([self.answers], _START_SECONDS) else None
        if hello is None:
            self._process.kill()
            self._sweep()
            said = self._process.communicate()[1].decode(errors="replace").strip()
            why = said.rpartition("\n")[2] or "it said nothing"
            raise EckartError(f"the process that runs generated code did not start: {why}")
        self.walls: list[str] = hello["walls"]
        self.limits_memory: bool = hello["memory"]

    @property
    def answers(self) -> int:
        """The descriptor to wait on."""
        return self._stdout.fileno()

    def ask(self, job: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        # One that is gone is noticed where its answer is read.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(job).encode() + b"\n")
            self._process.stdin.flush()

    def outcome(self) -> Outcome:
        """Of the program asked for; waits no longer, so only when there is an answer or no time left."""
        answer = self._read() if wait([self.answers], 0) else None
        if answer is None:
            # Whatever it ran may live in another session: it dies with its keeper where the kernel can.
            self.close()
            self._start()
            return Outcome(False, "killed with the process that kept it")
        if "broken" in answer:
            raise EckartError(f"generated code could not be run behind its limits: {answer['broken']}")
        return Outcome(answer["why"] == "passed", answer["why"])

    def _read(self) -> dict[str, Any] | None:
        line = self._stdout.readline()
        if not line.endswith(b"\n"):
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it; it ends its program and removes the folder on the way."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        for pipe in (self._process.stdout, self._process.stderr):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._sweep()

    def _sweep(self) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _outcomes(
    programs: Sequence[str], keepers: Sequence[_Keeper], seconds: float, memory_bytes: int
) -> Iterator[tuple[int, Outcome]]:
    """`(index, outcome)` as they come."""
    waiting = iter(enumerate(programs))
    busy: dict[_Keeper, tuple[int, float]] = {}

    def give(keeper: _Keeper) -> None:
        index, source = next(waiting, (None, ""))
        if index is not None:
            keeper.ask({"source": source, "seconds": seconds, "memory": memory_bytes})
            busy[keeper] = index, time.monotonic() + seconds + _SPARE_SECONDS

    for keeper in keepers:
        give(keeper)
    while busy:
        patience = min(deadline for _, deadline in busy.values()) - time.monotonic()
        answered = wait([keeper.answers for keeper in busy], max(0.0, patience))
        for keeper, (index, deadline) in list(busy.items()):
            if keeper.answers in answered or time.monotonic() > deadline:
                del busy[keeper]
                outcome = keeper.outcome()
                give(keeper)
                yield index, outcome
