"""The memory of this machine and of this process, and its wall clock."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from eckart.types import Track

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of glibc's malloc.h."""
PIECE = 1 << 20
PAUSE = 1.0
"""Seconds at least between two times that what is freed is given back: to look for it takes some of them."""
GROUPS, PROCESS_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
V2 = "memory.max", "memory.current", "inactive_file"
"""Of the control groups of Linux: what a group may take, what it takes, and what of that is cached files."""


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


def returning(track: Track) -> Track:
    """A track that between its items, and behind the last, has what is freed given back to the system.

    Unlike `give_back` it leaves how memory is got as it is: work that is short of time has its pieces again
    and again, and where they came from new each time it would wait for them.
    """
    libc = None
    with suppress(OSError):
        libc = ctypes.CDLL("libc.so.6")
    trim = getattr(libc, "malloc_trim", None)
    if trim is None:
        return track

    def tracked(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        last = time.monotonic()
        for item in track(items, description, total):
            yield item
            if time.monotonic() - last > PAUSE:
                trim(0)
                last = time.monotonic()
        trim(0)

    return tracked


def available(device: str = "cpu") -> int:
    """Memory that is free where the computing is done."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # No Linux: half of what there is, as other programs have some of it.
        free = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) // 2
    return min([free, *_left_in_groups()])


def _left_in_groups() -> Iterator[int]:
    """What the limits of the control groups that this process is in leave: a container has its own.

    What is cached of files is given up when it is wanted. A container may see its own group as the root of
    all, so each group above is looked for too.
    """
    with suppress(OSError):
        for line in PROCESS_GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers not in ("", "memory"):
                continue
            limit, used, cached = V1 if controllers else V2
            inside = Path(path.lstrip("/"))
            for group in (inside, *inside.parents):
                with suppress(OSError, ValueError, KeyError):
                    folder = GROUPS / controllers / group
                    stat = dict(each.split() for each in (folder / "memory.stat").read_text().splitlines())
                    taken = int((folder / used).read_text()) - int(stat[cached])
                    yield max(0, int((folder / limit).read_text()) - taken)


class Stopwatch:
    """Wall time since it was made."""

    def __init__(self) -> None:
        self._started = time.perf_counter()

    def seconds(self) -> float:
        """Seconds so far."""
        return time.perf_counter() - self._started
