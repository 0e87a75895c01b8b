"""Where the time goes: reading, forward and backward passes, moments, solving, writing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Clock:
    """Seconds of each kind of work; what is timed within other work is not counted there."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._running: list[tuple[str, float]] = []

    @contextmanager
    def of(self, work: str) -> Iterator[None]:
        """Time this, for as long as it lasts."""
        self._stop()
        self._running.append((work, time.perf_counter()))
        try:
            yield
        finally:
            self._stop()
            self._running.pop()
            if self._running:
                self._running[-1] = self._running[-1][0], time.perf_counter()

    def _stop(self) -> None:
        """Count what the innermost has had so far."""
        if self._running:
            work, since = self._running[-1]
            self.seconds[work] = self.seconds.get(work, 0.0) + time.perf_counter() - since
