"""Runs generated programs, each in a process of its own; started by `running.py`, never imported.

Started as `python -s -P keeper FOLDER WALL…`, it imports nothing of this package but what lies beside it. It
says in one JSON line which of the walls stand, then reads a JSON job a line ({"source", "seconds",
"memory"}) and answers one JSON line each: {"why"}, or {"broken"} where the failure is not the program's. It
forks, so that Python starts and imports once for all programs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import math
import os
import random
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eckart.evaluation.code.keeper import calls, walls
else:
    import calls
    import walls

FILE_BYTES = 16 * 2**20
DESCRIPTORS = 128
PROCESSES = 64
"""Threads too, where the user's other processes are not counted; the kernel asks this of root in vain."""

READY = """
    abc array ast bisect calendar cmath collections copy csv dataclasses datetime decimal enum fractions
    functools hashlib heapq io itertools json math numbers operator queue random re statistics string
    textwrap threading time traceback typing
"""
"""What programs import most, imported before they are forked."""


def limit(seconds: float, memory: int, standing: list[str]) -> None:
    """The kernel's limits on this process."""
    processor = math.ceil(seconds) + 1
    wanted = {
        resource.RLIMIT_CPU: (processor, processor + 1),
        resource.RLIMIT_FSIZE: (FILE_BYTES, FILE_BYTES),
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (DESCRIPTORS, DESCRIPTORS),
    }
    if walls.LINUX:
        wanted[resource.RLIMIT_AS] = (memory, memory)
    if "seccomp" not in standing or ALONE.intersection(standing) or "nobody" in standing:
        wanted[resource.RLIMIT_NPROC] = (PROCESSES, PROCESSES)
    for name, (soft, hard) in wanted.items():
        # None is raised: a limit that is lower already stays.
        most = resource.getrlimit(name)[1]
        most = hard if most == resource.RLIM_INFINITY else min(hard, most)
        resource.setrlimit(name, (min(soft, most), most))


def execute(source: str) -> str:
    """Run a program to its end, and say how that went."""
    module = types.ModuleType("program")
    sys.modules["program"] = module
    try:
        exec(compile(source, "<program>", "exec", dont_inherit=True), module.__dict__)
    except AssertionError:
        return "wrong"
    except MemoryError:
        module.__dict__.clear()  # room to say so
        return "out of memory"
    except BaseException as error:
        name = type(error).__name__
        try:
            return f"error: {name}: {' '.join(str(error).split())}"[:200].rstrip(": ")
        except BaseException:
            return f"error: {name}"
    return "passed"


def be_program(job: dict[str, Any], standing: list[str], place: str, report: int, token: bytes) -> None:
    """In the child: behind the walls, run, and report with the token. Does not return.

    The token is what `os._exit`, a print or a message of the program's own cannot give. It is in this
    process's memory all the same, where a program that looks for it finds it.
    """
    # The program may put functions of its own in their place.
    write, leave = os.write, os._exit
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        os.close(null)
        os.chdir(place)
        tempfile.tempdir = place
        sys.argv = ["program"]
        random.seed(0)
        limit(job["seconds"], job["memory"], standing)
        if "nobody" in standing:
            walls.nobody(place)
        if walls.LINUX:
            walls.die_with_parent()
            walls.drop_rights()
        for wall in OF_PROGRAMS:
            if wall in standing:
                TRIED[wall](place)
    except BaseException as error:
        write(report, token + f"broken: {error}".encode("utf-8", "replace") + b"\n")
        leave(1)
    said = execute(job["source"]).encode("utf-8", "replace")
    write(report, token + said + b"\n")
    leave(0)


def listen(report: int, pid: int, seconds: float) -> tuple[bytes, int | None, bool]:
    """What came through the pipe until a line, the program's end or the time limit: it, the status, late."""
    deadline = time.monotonic() + seconds
    said, status, pipes = b"", None, [report]
    while True:
        left = deadline - time.monotonic()
        # Closed, the pipe says that the program is about to end; a process that the program started may
        # hold it open, so the end is looked for in any case.
        patience = 0.05 if pipes else 0.002
        ready = select.select([*pipes, 0], [], [], max(0.0, min(left, patience)))[0]
        if 0 in ready:
            # No second job comes before the answer to the first: whoever asked is gone.
            raise EOFError
        if ready:
            piece = os.read(report, 4096)
            said += piece
            if b"\n" in said or len(said) > 2**16:
                return said, status, False
            if not piece:
                pipes = []
        elif status is not None:
            return said, status, False
        elif left <= 0:
            return said, status, True
        else:
            ended, code = os.waitpid(pid, os.WNOHANG)
            status = code if ended else None


def end(pid: int, status: int | None, *, alone: bool) -> int:
    """Kill the program and all that it started, however it hid; the program's wait status."""
    for kill in (os.killpg, os.kill):
        if kill is os.killpg or status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    if status is None:
        status = os.waitpid(pid, 0)[1]
    # What left the group is a child of this process once its own parent is gone (PR_SET_CHILD_SUBREAPER);
    # in a namespace of processes there is nothing but what a program started.
    for _ in range(10_000):
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return status
        for child in [-1] if alone else children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        time.sleep(0.001)
    raise RuntimeError("what a program started cannot be ended")


def children() -> list[int]:
    """The processes whose parent is this one."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with (
            contextlib.suppress(OSError),
            open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file,
        ):
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


@contextlib.contextmanager
def empty(folder: str, standing: list[str]) -> Iterator[str]:
    """A folder for one program, gone afterwards with all that it left."""
    if "namespaces" in standing:
        try:
            yield folder
        finally:
            walls.libc("umount2", folder.encode(), 2)  # MNT_DETACH
            walls.mount_place(folder)
        return
    place = tempfile.mkdtemp(dir=folder)
    try:
        yield place
    finally:
        try:
            os.rmdir(place)
        except OSError:
            # Folders in folders without end, or closed ones: no walk in Python comes to their ground.
            for tool in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
                subprocess.run([*tool, "--", place], stderr=subprocess.DEVNULL, check=False)


def judge(job: dict[str, Any], standing: list[str], folder: str) -> dict[str, str]:
    """Run one program in an empty folder that is gone afterwards."""
    token = os.urandom(16).hex().encode()
    with empty(folder, standing) as place:
        report, mouth = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(report)
                be_program(job, standing, place, mouth, token)
            finally:
                os._exit(1)
        os.close(mouth)
        said, status, late = b"", None, False
        try:
            said, status, late = listen(report, pid, job["seconds"])
        finally:
            status = end(pid, status, alone=bool(ALONE.intersection(standing)))
            os.close(report)
    return verdict(said, token, status, late)


def verdict(said: bytes, token: bytes, status: int, late: bool) -> dict[str, str]:
    """What the program reported, if it did; how it ended, if not."""
    if said.startswith(token) and said.endswith(b"\n"):
        why = said[len(token) :].decode("utf-8", "replace").rstrip()
        return {"broken": why} if why.startswith("broken") else {"why": why}
    if said:
        return {"why": "error: wrote to a pipe that is not its own"}
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    if late or number == signal.SIGXCPU:
        return {"why": "out of time"}
    if number:
        return {"why": f"killed by {signal.Signals(number).name}"}
    return {"why": f"error: left before its end, with status {os.WEXITSTATUS(status)}"}


def say(answer: dict[str, Any]) -> None:
    """One line, written at once: a buffer would be the children's too."""
    os.write(1, json.dumps(answer).encode() + b"\n")


TRIED: dict[str, Callable[[str], None]] = {
    "namespaces": walls.namespaces,
    "nobody": walls.nobody,
    "landlock": walls.landlock,
    "seccomp": lambda place: calls.seccomp(labels=False),
    "audit": walls.audit,
}
OF_PROGRAMS = ("landlock", "seccomp", "audit")
"""Put up by each program for itself, in this order, when it has no rights any more."""
ALONE = {"bubblewrap", "namespaces"}
"""Nothing of the user's is in reach: no process, and no file but read-only."""


def find_walls(asked: list[str], folder: str) -> list[str]:
    """Which of the walls stand here: `bubblewrap` was put up before this process, the others are tried."""
    standing = [wall for wall in asked if wall == "bubblewrap"]
    for wall in asked:
        if wall in standing or (standing and wall == "namespaces"):
            continue
        if wall == "nobody" and (os.geteuid() != 0 or ALONE.intersection(standing)):
            continue
        place = tempfile.mkdtemp(dir=folder)
        if walls.works(TRIED[wall], place):
            standing.append(wall)
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(place)
    return standing if "seccomp" in standing or ALONE.intersection(standing) else [*standing, "audit"]


def main() -> None:
    """Answer jobs until the input ends."""
    folder, *asked = sys.argv[1:]
    # Neither what lies beside this file nor what a sandbox sets is the programs'.
    sys.path.pop(0)
    os.environ.pop("PWD", None)
    standing = find_walls(asked, folder)
    if "namespaces" in standing:
        walls.namespaces(folder)
    if ALONE.intersection(standing):
        TRIED["seccomp"] = lambda place: calls.seccomp(labels=True)
    if walls.LINUX:
        walls.prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    for name in READY.split():
        importlib.import_module(name)
    gc.freeze()
    say({"walls": standing, "memory": walls.LINUX})
    with contextlib.suppress(EOFError):
        for line in sys.stdin.buffer:
            try:
                answer = judge(json.loads(line), standing, folder)
            except OSError as error:
                answer = {"broken": str(error)}
            say(answer)
    # Whoever asked may be gone without a word.
    with contextlib.suppress(OSError):
        os.rmdir(folder)


if __name__ == "__main__":
    main()
