"""Programs that try to get out of the sandbox of generated code, behind each set of walls here.

    python benchmarks/escapes.py
    python benchmarks/escapes.py --walls seccomp,landlock --only fork-bomb

Each program runs as the tasks `humaneval` and `mbpp` run theirs. What came of it is looked for in its own
word, in a file that holds a secret, at servers, in the process that asked (which may be gone), in memory, in
processes and folders that are left. `held` is that nothing got out. Nothing else of Eckart's may run
meanwhile: its processes would be taken for what is left.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

from eckart.evaluation.code import Outcome, running

BACKENDS = {
    "bubblewrap": ("bubblewrap", "landlock", "seccomp"),
    "namespaces": ("namespaces", "landlock", "seccomp"),
    "seccomp and Landlock": ("landlock", "seccomp"),
    "seccomp": ("seccomp",),
}
"""Sets of walls; what does not stand here is left out of the table."""

MOST_MEMORY = 600 * 2**20
"""More than a program's files may take, and less than any of the bombs wants."""

SYSCALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nsyscall = libc.syscall\n"
# `pid` is the process that asked, `secret` a file of its user's, `outside` a folder, `port` a server.
# A program says GOT OUT where it can tell; most is found out afterwards.
PROGRAMS = {
    "signal-by-descriptor": """
import os, fcntl, time
r, w = os.pipe()
fcntl.fcntl(r, fcntl.F_SETOWN, {pid}); fcntl.fcntl(r, 10, 9)
fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
os.write(w, b"x"); time.sleep(.3)
""",
    "signal-by-descriptor-owner-ex": """
import os, fcntl, struct, time
r, w = os.pipe()
fcntl.fcntl(r, 15, struct.pack("ii", 1, {pid})); fcntl.fcntl(r, 10, 9)
fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_ASYNC | os.O_NONBLOCK)
os.write(w, b"x"); time.sleep(.3)
""",
    "signal-by-ioctl": """
import os, fcntl, struct, time
r, w = os.pipe()
fcntl.ioctl(r, 0x8901, struct.pack("i", {pid})); fcntl.ioctl(r, 0x5452, struct.pack("i", 1))
os.write(w, b"x"); time.sleep(.3)
""",
    "kill": "import os\nos.kill({pid}, 9)\n",
    "kill-all": "import os\nos.kill(-1, 9)\n",
    "kill-by-pidfd": SYSCALL
    + "fd = syscall(434, {pid}, 0)\nif fd >= 0: syscall(424, fd, 9, None, 0)\nassert fd >= 0\n",
    "limits-of-another": "import resource\nresource.prlimit({pid}, resource.RLIMIT_NOFILE, (3, 3))\n",
    "priority-of-another": "import os\nos.setpriority(os.PRIO_PROCESS, {pid}, 19)\n",
    "processors-of-another": "import os\nos.sched_setaffinity({pid}, {{0}})\n",
    "memory-of-another": """
import os
maps = open("/proc/{pid}/maps").read()
start = int(next(line for line in maps.splitlines() if "[heap]" in line or "rw-p" in line).split("-")[0], 16)
fd = os.open("/proc/{pid}/mem", os.O_RDWR); os.pread(fd, 1, start)
raise ValueError("GOT OUT")
""",
    "ptrace": SYSCALL + "assert libc.ptrace(16, {pid}, 0, 0) == -1\n1/0\n",
    "environment-of-another": """
raise ValueError("GOT OUT" if b"SECRET" in open("/proc/{pid}/environ", "rb").read() else "")
""",
    "fork-bomb": "import os\nwhile True: os.fork()\n",
    "child-that-stays": """
import os, time, ctypes
if os.fork() == 0:
    os.setsid(); ctypes.CDLL(None).prctl(1, 0)
    if os.fork() == 0: time.sleep(60)
    os._exit(0)
time.sleep(.3)
""",
    "outliving-the-keeper": """
import ctypes, os, time
ctypes.CDLL(None).prctl(1, 0, 0, 0, 0)
os.kill(os.getppid(), 9); time.sleep(60)
""",
    "shell": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo x > {outside}/sh'])\n",
    "thread-bomb": """
import threading, time
threading.stack_size(32768)
for _ in range(20000): threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
""",
    "read-a-file": "raise ValueError(open({secret!r}).read())\n",
    "read-by-link": "import os\nos.symlink({secret!r}, 'l')\nraise ValueError(open('l').read())\n",
    "read-by-root": "raise ValueError(open('/proc/1/root' + {secret!r}).read())\n",
    "hard-link": "import os\nos.link({secret!r}, 'h')\nraise ValueError(open('h').read())\n",
    "write-outside": "open({outside!r} + '/written', 'w').write('x')\n",
    "change-a-mode": "import os\nos.chmod({secret!r}, 0o777)\n",
    "change-a-time": "import os\nos.utime({secret!r}, (1, 1))\n",
    "truncate": "import os\nos.truncate({secret!r}, 0)\n",
    "rename": "import os\nos.rename({secret!r}, {secret!r} + '2')\n",
    "delete": "import os\nos.unlink({secret!r})\n",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', {port}), 3).send(b'x')\n",
    "network-by-io-uring": SYSCALL
    + "p = ctypes.create_string_buffer(120)\nif syscall(425, 4, p) >= 0: raise ValueError('GOT OUT')\n",
    "socket-of-a-file": "import socket\nsocket.socket(socket.AF_UNIX).connect({outside!r} + '/socket')\n",
    "socket-without-a-file": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0eckart-{pid}')\n",
    "memory-in-memfd": """
import os
b = b"x" * (1 << 20)
fs = []
for i in range(200):
    f = os.memfd_create("x"); fs.append(f)
    for _ in range(15): os.write(f, b)
""",
    "memory-in-shm": """
import os
b = b"x" * (15 << 20)
for k in range(100): open("/dev/shm/eckx%d" % k, "wb").write(b)
""",
    "memory-in-sysv": SYSCALL + "libc.shmat.restype = ctypes.c_void_p\nfor k in range(100):\n"
    "    i = libc.shmget(0, 15 << 20, 0o1600)\n    if i < 0: raise OSError(ctypes.get_errno(), 'shmget')\n"
    "    p = libc.shmat(i, None, 0)\n    ctypes.memset(p, 1, 15 << 20); libc.shmdt(ctypes.c_void_p(p))\n",
    "memory-in-files": """
b = b"x" * (15 << 20)
for k in range(100): open("f%d" % k, "wb").write(b)
""",
    "deep-folders": "import os\nfor k in range(3000):\n  os.mkdir('d'); os.chdir('d')\nassert False\n",
    "closed-folders": "import os\nos.makedirs('a/b')\nopen('a/b/f', 'w')\nos.chmod('a', 0)\n1 / 0\n",
    "mount": SYSCALL
    + "if libc.mount(b'none', b'.', b'tmpfs', 0, None) == 0: raise ValueError('GOT OUT')\n1/0\n",
    "namespaces-of-its-own": SYSCALL
    + "if libc.unshare(0x10000000) == 0 and libc.unshare(0x20000) == 0: raise ValueError('GOT OUT')\n1/0\n",
    "namespaces-of-another": """
import os, ctypes
for name in "user", "mnt", "net":
    if ctypes.CDLL(None).setns(os.open("/proc/{pid}/ns/" + name, 0), 0) == 0: raise ValueError("GOT OUT")
""",
    "kernel-settings": """
open("/proc/sys/kernel/core_pattern", "r+").write(open("/proc/sys/kernel/core_pattern").read())
raise ValueError("GOT OUT")
""",
    "keys": SYSCALL + "if syscall(250, 0, -3, 1) > 0: raise ValueError('GOT OUT')\n1/0\n",
    "old-calls": """
import ctypes, mmap
if __import__("os").uname().machine != "x86_64": 1/0
code = mmap.mmap(-1, 4096, prot=7)
code.write(bytes.fromhex("b814000000cd80c3"))  # getpid by int 0x80
pid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
if pid > 0: raise ValueError("GOT OUT")
""",
    "answer-of-its-own": """
import os
for fd in range(3, 128):
    try: os.write(fd, b'{{"why": "passed"}}\\n')
    except OSError: pass
1/0
""",
}


class Watched:
    """What a program could reach from its sandbox, and what became of it."""

    def __init__(self) -> None:
        self.kept = Path(tempfile.mkdtemp())
        self.secret, self.place, self.outside = (self.kept / name for name in ("secret", "place", "outside"))
        self.place.mkdir()
        self.outside.mkdir()
        self.secret.write_text("SECRET")
        os.utime(self.secret, (10**9, 10**9))
        self.before = os.stat(self.secret)
        self.knocked: list[str] = []
        self.servers = [
            self._listen(socket.AF_INET, ("127.0.0.1", 0), "reached a server"),
            self._listen(socket.AF_UNIX, str(self.outside / "socket"), "reached a socket"),
            self._listen(socket.AF_UNIX, f"\0eckart-{os.getpid()}", "reached a socket without a file"),
        ]
        self.state, self.processes = state(), set(kept_processes())
        self.free, self.least, self.over = memory(), memory(), threading.Event()
        threading.Thread(target=self._weigh, daemon=True).start()

    def _listen(self, kind: int, address: object, word: str) -> socket.socket:
        server = socket.socket(kind)
        server.bind(address)
        server.listen()

        def answer() -> None:
            with suppress(OSError):
                server.accept()
                self.knocked.append(word)

        threading.Thread(target=answer, daemon=True).start()
        return server

    def _weigh(self) -> None:
        while not self.over.wait(0.02):
            self.least = min(self.least, memory())

    def source(self, name: str) -> str:
        """A program that knows all of it."""
        known = {"secret": str(self.secret), "outside": str(self.outside)}
        return PROGRAMS[name].format(pid=os.getpid(), port=self.servers[0].getsockname()[1], **known)

    def found(self, outcome: Outcome) -> list[str]:
        """What got out, in words; everything is tidied up."""
        time.sleep(0.1)
        self.over.set()
        found = list(dict.fromkeys(self.knocked))
        if "GOT OUT" in outcome.why or "SECRET" in outcome.why:
            found.append("by its own word")
        if not self.secret.exists() or self.secret.read_text() != "SECRET":
            found.append("a file is gone or changed")
        else:
            now = os.stat(self.secret)
            if (now.st_mode, now.st_mtime) != (self.before.st_mode, self.before.st_mtime):
                found.append("a mode or time is changed")
        if sorted(path.name for path in self.outside.iterdir()) != ["socket"]:
            found.append("wrote outside")
        if state() != self.state:
            found.append("limits, priority or processors of the caller changed")
        if list(self.place.iterdir()):
            found.append("a folder is left")
        if self.free - self.least > MOST_MEMORY:
            found.append(f"{(self.free - self.least) / 2**30:.1f} GB of memory")
        left = set(kept_processes()) - self.processes
        if left:
            found.append("a process is left")
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        for path in Path("/dev/shm").glob("eckx*"):
            path.unlink()
        for server in self.servers:
            # Closed alone, it would live on in the thread that waits for it.
            server.shutdown(socket.SHUT_RDWR)
            server.close()
        shutil.rmtree(self.kept, ignore_errors=True)
        return found


def inside(walls: tuple[str, ...], names: list[str]) -> None:
    """Run programs as the tasks do; what came of each, as a line of JSON."""
    running._WALLS = walls
    for name in names:
        watched = Watched()
        tempfile.tempdir = str(watched.place)
        outcome = running.run_programs([watched.source(name)], seconds=4, workers=1)[0]
        tempfile.tempdir = None
        found = watched.found(outcome)
        if name == "answer-of-its-own" and outcome.passed:
            found.append("passed")
        print(json.dumps([name, found, outcome.why]), flush=True)


def state() -> tuple[object, ...]:
    """What another process could change of this one."""
    kinds = [value for name, value in vars(resource).items() if name.startswith("RLIMIT_")]
    limits = [resource.getrlimit(kind) for kind in kinds]
    return limits, os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0)


def memory() -> int:
    """Bytes that are to be had on this machine."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def kept_processes() -> list[int]:
    """Processes that run a program or a keeper, as their command lines say."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit() and int(path.name) != os.getpid():
            try:
                said = (path / "cmdline").read_bytes()
            except OSError:
                continue
            if b"evaluation/code/keeper" in said or b"/keeper\0/program" in said:
                found.append(int(path.name))
    return found


def attempts(walls: tuple[str, ...], names: list[str]) -> dict[str, str]:
    """`held`, or what got out, of each program."""
    results: dict[str, str] = {}
    while len(results) < len(names):
        left = [name for name in names if name not in results]
        asked = [sys.executable, __file__, "--inside", "--walls", ",".join(walls), "--only", ",".join(left)]
        process = subprocess.Popen(
            asked,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SECRET_TOKEN": "SECRET"},
            start_new_session=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            name, found, why = json.loads(line)
            results[name] = f"GOT OUT: {', '.join(found)}" if found else "held"
            print(f"{'+'.join(walls)}: {name}: {results[name]} ({why})", file=sys.stderr)
        error = process.communicate()[1]
        if process.returncode:
            name = next(name for name in left if name not in results)
            results[name] = f"GOT OUT: the caller ended with {process.returncode}: {error.strip()[-200:]}"
    return results


def main() -> None:
    """Print a row for each program, a column for each set of walls."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--walls", default="", help="one set of walls, with commas")
    parser.add_argument("--only", default="", help="programs, with commas")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(PROGRAMS)
    walls = tuple(options.walls.split(","))
    if options.inside:
        inside(walls, names)
        return
    columns = {}
    for title, each in ({options.walls: walls} if options.walls else BACKENDS).items():
        running._WALLS = each
        with closing(running._Keeper()) as keeper:
            if set(each) <= set(keeper.walls):
                columns[title] = attempts(each, names)
            else:
                print(f"not here: {title} ({', '.join(keeper.walls)})", file=sys.stderr)
    print("| program |", " | ".join(columns), "|")
    print("|---" * (1 + len(columns)), end="|\n")
    for name in names:
        print(f"| `{name}` |", " | ".join(found[name] for found in columns.values()), "|")
    sys.exit(any(set(found.values()) != {"held"} for found in columns.values()))


if __name__ == "__main__":
    main()
