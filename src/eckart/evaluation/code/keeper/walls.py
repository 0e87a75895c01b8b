"""What stands between a generated program and the machine: each wall is tried, and put up where it can be.

Imported by `__main__.py` beside it, in a process that knows nothing of this package.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
from collections.abc import Callable
from typing import Any

LINUX = sys.platform == "linux"
ENOSYS, EPERM = 38, 1
NOBODY = 65534
PLACE_BYTES = 256 * 2**20
"""All the files of a program together, where its folder is a file system of its own."""

VISIBLE = (
    *dict.fromkeys((sys.base_prefix, sys.prefix, sys.exec_prefix)),
    *("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"),
)
"""What a program may read: Python, and what Python needs."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def libc(name: str, *arguments: Any) -> int:
    """Call a function of the C library; OSError where it says -1, or where there is none."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if function is None:
        raise OSError(ENOSYS, name)
    given = (ctypes.c_long(each) if isinstance(each, int) else each for each in arguments)
    result: int = function(*given)
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, *values: Any) -> None:
    """An option of this process, its values as wide as the kernel reads them."""
    libc("prctl", option, *[*values, 0, 0, 0, 0][:4])


def die_with_parent() -> None:
    """No process of a program outlives the one that keeps it (PR_SET_PDEATHSIG)."""
    prctl(1, int(signal.SIGKILL))


def drop_rights() -> None:
    """No capability of this process stays, neither root's nor those that came with the namespaces."""
    libc("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))


def namespaces(place: str) -> None:
    """Processes, mounts, a network, users and IPC of the caller's own; no rights are needed for that.

    Returns in a new process, the first one of its namespace, to which no other process can be named: what
    ends with it is all that was ever started in it. Every mount is read-only to it, `/proc` is empty, and
    `place` is a file system in memory. The process that called waits, removes `place` and ends likewise.
    """
    user, group = os.geteuid(), os.getegid()
    # CLONE_NEWUSER, _NEWPID, _NEWNET, _NEWIPC, _NEWUTS
    libc("unshare", 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x04000000)
    maps = (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    )
    for name, text in maps:
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    inner = os.fork()
    if inner:
        status = os.waitpid(inner, 0)[1]
        with contextlib.suppress(OSError):
            os.rmdir(place)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    die_with_parent()
    libc("unshare", 0x00020000)  # CLONE_NEWNS
    libc("mount", b"none", b"/", None, 0x4000 | 0x40000, None)  # MS_REC | MS_PRIVATE
    libc("mount", b"none", b"/proc", b"tmpfs", 0, b"size=4k")
    # mount_setattr of / and all below it: read-only, no setuid program
    libc("syscall", 442, -100, b"/", 0x8000, struct.pack("=QQQQ", 0x1 | 0x2, 0, 0, 0), 32)
    mount_place(place)


def mount_place(place: str) -> None:
    """A file system in memory at `place`: it has a size, and it is gone when it is unmounted."""
    options = f"size={PLACE_BYTES},nr_inodes=65536,mode=700".encode()
    libc("mount", b"none", place.encode(), b"tmpfs", 0x2 | 0x4, options)  # MS_NOSUID | MS_NODEV


def nobody(place: str) -> None:
    """Another user than root, where it is root that runs and Python can be read by others.

    Raises:
        PermissionError: nobody else can read Python here.
    """
    if os.geteuid() == 0:
        os.chown(place, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        os.listdir(os.path.dirname(os.__file__))


def landlock(place: str) -> None:
    """Files: `place`, and what Python needs, read-only. TCP and signals out are closed too (newer kernels).

    Raises:
        OSError: a kernel without it (before Linux 5.13, or not chosen at its start).
    """
    create, add, restrict = 444, 445, 446
    version = libc("syscall", create, None, 0, 1)
    # linux/landlock.h: 13 kinds of access at first; then links, truncation, and ioctl of devices.
    kinds = 13 + sum(version >= since for since in (2, 3, 5))
    every = (1 << kinds) - 1
    read, write = 1 << 0 | 1 << 2 | 1 << 3, 1 << 1 | 1 << 2
    attributes = struct.pack("=QQQ", every, 3, 3)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = libc("syscall", create, attributes, len(attributes), 0)
    allowed = [(path, read) for path in VISIBLE] + [(path, write) for path in DEVICES] + [(place, every)]
    for path, access in allowed:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            found = os.open(path, os.O_PATH | os.O_CLOEXEC)
            kind = access if os.path.isdir(path) else access & ~(1 << 3)  # READ_DIR is nothing for a file
            libc("syscall", add, rules, 1, struct.pack("=Qi", kind, found), 0)
            os.close(found)
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    libc("syscall", restrict, rules, 0)
    os.close(rules)


def audit(place: str) -> None:
    """What Python itself can refuse: better than nothing where the kernel gives nothing."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket."):
            raise PermissionError(EPERM, "no network here")

    sys.addaudithook(hook)


def works(wall: Callable[[str], None], place: str) -> bool:
    """Whether a wall can be put up: tried in a child, since none can be taken down."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            wall(place)
            os._exit(0)
        os._exit(1)
    return os.waitpid(pid, 0)[1] == 0
