"""Runs generated programs, each in a process of its own; started by `running.py`, never imported.

Started as `python -s -P keeper.py FOLDER WALL…`, it imports nothing of this package. It says in one JSON
line which of the walls stand, then reads a JSON job a line ({"source", "seconds", "memory"}) and answers
one JSON line each: {"why"}, or {"broken"} where the failure is not the program's. It forks, so that
Python starts and imports once for all programs.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import math
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

LINUX = sys.platform == "linux"
FILE_BYTES = 16 * 2**20
PROCESSES = 32
"""Where seccomp does not refuse them all; the kernel asks this of root in vain."""

READY = """
    abc array ast bisect calendar cmath collections copy csv dataclasses datetime decimal enum fractions
    functools hashlib heapq io itertools json math numbers operator queue random re statistics string
    textwrap threading time traceback typing
"""
"""What programs import most, imported before they are forked."""

# linux/audit.h, and each machine's column of the system calls below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
REFUSED = {
    "socket": (41, 198),
    "io_uring_setup": (425, 425),  # makes sockets without asking for one
    "fork": (57, None),
    "vfork": (58, None),
    "unshare": (272, 97),
    "setns": (308, 268),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438),
}
OWN_ONLY = {"kill": (62, 129), "tgkill": (234, 131)}
CLONE, CLONE3 = (56, 220), (435, 435)
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x10000


def libc(name: str, *arguments: Any) -> None:
    """Call a function of the C library that returns 0; OSError otherwise, or where there is none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(ENOSYS, name)
    if function(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def prctl(option: int, *values: Any) -> None:
    """An option of this process, its values as wide as the kernel reads them."""
    padded = [*values, 0, 0, 0, 0][:4]
    libc("prctl", option, *(ctypes.c_ulong(v) if isinstance(v, int) else v for v in padded))


def namespace() -> None:
    """A network of this process and its children alone, with nothing in it; no rights are needed for that."""
    user, group = os.geteuid(), os.getegid()
    libc("unshare", 0x10000000 | 0x40000000 | 0x08000000)  # CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWIPC
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def drop_rights() -> None:
    """No capability of this process stays, neither root's nor those that came with the namespace."""
    libc("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))


def seccomp() -> None:
    """From here on: no socket, no new process (threads are), no hand on another process."""
    machine = os.uname().machine
    if not LINUX or machine not in MACHINES or sys.maxsize < 2**32:
        raise OSError(ENOSYS, "no table of system calls for this machine")
    architecture, column = MACHINES[machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
    allow, refuse, unknown = 0x7FFF0000, 0x50000 | EPERM, 0x50000 | ENOSYS  # linux/seccomp.h
    # Offsets in struct seccomp_data: 0 the call, 4 the architecture, 16 the first argument.
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for calls in REFUSED.values():
        if (call := calls[column]) is not None:
            code += [(equal, 0, 1, call), (give, 0, 0, refuse)]
    # The C library asks clone3 first, whose flags no filter can read, and clone where that is unknown.
    code += [(equal, 0, 1, CLONE3[column]), (give, 0, 0, unknown)]
    code += [(equal, 0, 4, CLONE[column]), (load, 0, 0, 16), (any_bit, 0, 1, CLONE_THREAD)]
    code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    for calls in OWN_ONLY.values():
        code += [(equal, 0, 4, calls[column]), (load, 0, 0, 16), (equal, 0, 1, os.getpid())]
        code += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    code.append((give, 0, 0, allow))
    filter_ = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    prctl(22, 2, struct.pack("@HP", len(code), ctypes.addressof(filter_)))  # PR_SET_SECCOMP, of a filter


def audit() -> None:
    """What Python itself can refuse: better than nothing where the kernel gives nothing."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket."):
            raise PermissionError(EPERM, "no network here")

    sys.addaudithook(hook)


def works(wall: Callable[[], None]) -> bool:
    """Whether a wall can be put up: tried in a child, since none can be taken down."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            wall()
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def limit(seconds: float, memory: int, walls: list[str]) -> None:
    """The kernel's limits on this process."""
    processor = math.ceil(seconds) + 1
    wanted = {
        resource.RLIMIT_CPU: (processor, processor + 1),
        resource.RLIMIT_FSIZE: (FILE_BYTES, FILE_BYTES),
        resource.RLIMIT_CORE: (0, 0),
    }
    if LINUX:
        wanted[resource.RLIMIT_AS] = (memory, memory)
    if "seccomp" not in walls:
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


def be_program(job: dict[str, Any], walls: list[str], place: str, report: int, token: bytes) -> None:
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
        if LINUX:
            prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG: no program outlives its keeper
            drop_rights()
        limit(job["seconds"], job["memory"], walls)
        for wall in walls:
            if wall != "namespace":
                WALLS[wall]()
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


def end(pid: int, status: int | None) -> int:
    """Kill the program and all that it started, however it hid; the program's wait status."""
    for kill in (os.killpg, os.kill):
        if kill is os.killpg or status is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(pid, signal.SIGKILL)
    if status is None:
        status = os.waitpid(pid, 0)[1]
    # What left the group is a child of this process once its own parent is gone (PR_SET_CHILD_SUBREAPER).
    for _ in range(10_000):
        try:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
        except ChildProcessError:
            return status
        for child in children():
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


def judge(job: dict[str, Any], walls: list[str], folder: str) -> dict[str, str]:
    """Run one program in an empty folder that is gone afterwards."""
    token = os.urandom(16).hex().encode()
    with (
        contextlib.suppress(RecursionError),
        tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place,
    ):
        report, mouth = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(report)
                be_program(job, walls, place, mouth, token)
            finally:
                os._exit(1)
        os.close(mouth)
        said, status, late = b"", None, False
        try:
            said, status, late = listen(report, pid, job["seconds"])
        finally:
            status = end(pid, status)
            os.close(report)
        answer = verdict(said, token, status, late)
    return answer


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


WALLS: dict[str, Callable[[], None]] = {"namespace": namespace, "seccomp": seccomp, "audit": audit}


def main() -> None:
    """Answer jobs until the input ends."""
    folder, *asked = sys.argv[1:]
    walls = [wall for wall in asked if works(WALLS[wall])] or ["audit"]
    if "namespace" in walls:
        namespace()
    if LINUX:
        prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    for name in READY.split():
        importlib.import_module(name)
    gc.freeze()
    say({"walls": walls, "memory": LINUX})
    with contextlib.suppress(EOFError):
        for line in sys.stdin.buffer:
            try:
                answer = judge(json.loads(line), walls, folder)
            except OSError as error:
                answer = {"broken": str(error)}
            say(answer)
    # Whoever asked may be gone without a word; whichever keeper is last takes the folder along.
    with contextlib.suppress(OSError):
        os.rmdir(folder)


if __name__ == "__main__":
    main()
