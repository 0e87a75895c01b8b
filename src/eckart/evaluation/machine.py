"""The memory of this machine and of this process, and its wall clock."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of glibc's malloc.h."""
PIECE = 1 << 20


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far.

    Linux keeps that mark for the program that runs; what `getrusage` says there counts the parent's memory
    at the time of the fork too.
    """
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def give_back() -> None:
    """Have what is freed given back to the system at once, where this is glibc.

    It keeps freed pieces of up to 32 MB, and of many threads each its own: activations are such pieces.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_THRESHOLD, PIECE)
        libc.mallopt(M_ARENA_MAX, 1)


def available(device: str = "cpu") -> int:
    """Memory that is free where the computing is done."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # No Linux: half of what there is, as other programs have some of it.
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2


class Stopwatch:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started
