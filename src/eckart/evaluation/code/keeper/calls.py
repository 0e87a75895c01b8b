"""The seccomp filter of a generated program: which system calls are none of its business.

Imported by `__main__.py` beside it, in a process that knows nothing of this package.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eckart.evaluation.code.keeper.walls import ENOSYS, EPERM, LINUX, libc, prctl
else:
    from walls import ENOSYS, EPERM, LINUX, libc, prctl

# linux/audit.h, and each machine's column of the system calls below.
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}

REFUSED = {
    # sockets, and what makes them without asking for one
    "socket": (41, 198),
    "io_uring_setup": (425, 425),
    # processes
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
    "unshare": (272, 97),
    "setns": (308, 268),
    # a hand on another process
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "perf_event_open": (298, 241),
    # memory that no limit of a process counts
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # the kernel
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265),
    "personality": (135, 92),
    "mount": (165, 40),
    "umount2": (166, 39),
    "mount_setattr": (442, 442),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "syslog": (103, 116),
    "quotactl": (179, 60),
}
LABELS = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
}
"""What Landlock leaves open: refused where the files of the user are not read-only anyway."""

# Of its own process alone: which argument names it, and whether 0 does too.
OWN_ONLY = {
    "kill": (62, 129, 0, False),
    "tgkill": (234, 131, 0, False),
    "prlimit64": (302, 261, 0, True),
    "sched_setaffinity": (203, 122, 0, True),
    "sched_setscheduler": (144, 119, 0, True),
    "sched_setparam": (142, 118, 0, True),
    "sched_setattr": (314, 274, 0, True),
}
# Refused with any of these values of an argument.
REFUSED_WITH = {
    # F_SETOWN, F_SETSIG, F_SETOWN_EX: a signal of one's choice to any process of the user's
    "fcntl": (72, 25, 1, (8, 10, 15)),
    # FIOSETOWN, SIOCSPGRP likewise; TIOCSTI, TIOCLINUX, TIOCSCTTY: a terminal's input
    "ioctl": (16, 29, 1, (0x8901, 0x8902, 0x5412, 0x541C, 0x540E)),
    # PR_SET_PDEATHSIG: to outlive the keeper
    "prctl": (157, 167, 0, (1,)),
}
CLONE, CLONE3 = (56, 220), (435, 435)
CLONE_THREAD = 0x10000


def seccomp(*, labels: bool) -> None:
    """From here on none of the calls above; threads are started all the same.

    Args:
        labels: whether modes, owners and times of files may be changed.

    Raises:
        OSError: a machine whose calls are not listed here, or a kernel without filters.
    """
    machine = os.uname().machine
    if not LINUX or machine not in MACHINES or sys.maxsize < 2**32:
        raise OSError(ENOSYS, "no table of system calls for this machine")
    architecture, column = MACHINES[machine]
    load, equal, at_least, any_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06  # linux/bpf_common.h
    allow, refuse, unknown = 0x7FFF0000, 0x50000 | EPERM, 0x50000 | ENOSYS  # linux/seccomp.h

    def of(call: int, lines: list[tuple[int, int, int, int]]) -> list[tuple[int, int, int, int]]:
        return [(equal, 0, len(lines), call), *lines]

    def argument(which: int) -> tuple[int, int, int, int]:
        return load, 0, 0, 16 + 8 * which

    # Offsets in struct seccomp_data: 0 the call, 4 the architecture, 16 the first argument.
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    for calls in (REFUSED if labels else {**REFUSED, **LABELS}).values():
        if (call := calls[column]) is not None:
            code += of(call, [(give, 0, 0, refuse)])
    # The C library asks clone3 first, whose flags no filter can read, and clone where that is unknown.
    code += of(CLONE3[column], [(give, 0, 0, unknown)])
    threads = [argument(0), (any_bit, 0, 1, CLONE_THREAD), (give, 0, 0, allow), (give, 0, 0, refuse)]
    code += of(CLONE[column], threads)
    for *numbers, which, zero in OWN_ONLY.values():
        own = [os.getpid(), 0] if zero else [os.getpid()]
        lines = [line for pid in own for line in ((equal, 0, 1, pid), (give, 0, 0, allow))]
        code += of(numbers[column], [argument(which), *lines, (give, 0, 0, refuse)])
    for first, second, which, values in REFUSED_WITH.values():
        lines = [line for value in values for line in ((equal, 0, 1, value), (give, 0, 0, refuse))]
        code += of((first, second)[column], [argument(which), *lines, (give, 0, 0, allow)])
    code.append((give, 0, 0, allow))
    filter_ = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
    prctl(38, 1)  # PR_SET_NO_NEW_PRIVS
    libc("prctl", 22, 2, struct.pack("@HP", len(code), ctypes.addressof(filter_)))  # a filter
