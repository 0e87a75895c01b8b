"""One method of a comparison, in a process of its own: so its peak memory is its own, and ends with it.

`main` reads a `Request` as one line of JSON and answers in lines of JSON: `row`, `note`, `begin` and `step`
of what takes long, and `error` where there will be no more rows. When its standard input closes, whoever
asked is gone, and it ends too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from eckart.comparison.beside import Beside
from eckart.comparison.protocol import Request
from eckart.compression.course import Course
from eckart.compression.cuts import Cut
from eckart.compression.judging import Parted
from eckart.compression.loaded import Loaded, compress_loaded, prepare
from eckart.data import texts_of
from eckart.data.splitting import hold_out
from eckart.evaluation.machine import peak_memory_bytes
from eckart.evaluation.measuring import measure, read_material
from eckart.model import loading, replacing
from eckart.model import targets as targets_
from eckart.recovery.runs import TrainingSetup
from eckart.types import ComparisonRow, Recipe, Text, Track, in_one_line

Send = Callable[[dict[str, Any]], None]


class MethodRun:
    """One method on a loaded dense model: a row for each size."""

    def __init__(self, request: Request, send: Send) -> None:
        self.request, self.protocol = request, request.protocol
        self.send, self.track = send, progress_sender(send)
        folder = Path(request.model)
        self.tokenizer = loading.load_tokenizer(folder)
        self.model = loading.load_model(folder, self.protocol.device, self.protocol.dtype)
        generates = bool(self.model.can_generate())
        self.texts: list[Text] = []
        if request.data is not None and (request.held_out or request.recipe is not None):
            tokens = self.protocol.training.tokens if self.protocol.training else None
            self.texts = texts_of(request.data, generates, tokens=tokens)
        if request.held_out:
            self.texts, self.material = hold_out(self.texts)
        else:
            self.material = read_material(self.protocol.task, request.test, generates)
        replacing.require_finite(self.model)
        self.beside: Beside | None = None
        found = targets_.find_targets(self.model, self.protocol.targets, self.protocol.layers).targets
        self.before = replacing.count_parameters(self.model)
        self.targets_before = sum(target.out_features * target.in_features for target in found)

    def rows(self) -> None:
        """Send a row for each size, the largest first."""
        recipe, peak = self.request.recipe, Peak()
        peak.so_far()
        self._ask_dense()
        # To ask it is a part of measuring, not of making a model.
        peak.forget()
        if recipe is None:
            self._measure(self._row(1.0, 0.0, peak.so_far()))
            return
        if self.protocol.training is not None:
            for keep in self.request.keeps:
                self._guarded(lambda recipe: self._train(recipe, peak), recipe, keep)
                peak.forget()
            return
        started = time.perf_counter()
        loaded = Loaded(self.model, self.tokenizer, cache=False)
        course = prepare(loaded, recipe, self.texts, self.track)
        if min(self.request.keeps) < 1:
            course.work_ahead(recipe)
        shared = time.perf_counter() - started
        for note in course.store.notes:
            self.send({"note": note})
        for keep in self.request.keeps:
            self._guarded(lambda recipe: self._cut(course, recipe, shared, peak), recipe, keep)
            course.bench.restore()
            peak.forget()

    def _ask_dense(self) -> None:
        """Keep what the dense model says, which is not there once it was cut."""
        if self.protocol.task == "perplexity":
            texts, length = self.material[: self.protocol.limit], self.protocol.max_length
            self.beside = Beside.of(
                self.model, self.tokenizer, texts, length, self.protocol.limit, self.track
            )

    def _guarded(self, make: Callable[[Recipe], None], recipe: Recipe, keep: float) -> None:
        """Make one row; where that fails, send it with what went wrong."""
        try:
            make(recipe.model_copy(update={"keep": keep}))
        except Exception as error:
            self._show_traceback()
            failed = self._row(keep)
            self.send({"row": failed.model_copy(update={"error": in_one_line(error)}).model_dump()})

    def _train(self, recipe: Recipe, peak: Peak) -> None:
        """A row of a model that is cut and trained; each begins with the dense one."""
        request = self.request
        self.model = loading.load_model(Path(request.model), self.protocol.device, self.protocol.dtype)
        assert self.protocol.training is not None
        assert recipe.keep is not None
        started = time.perf_counter()
        # As `compress` would: what it is judged by is not learned from.
        learning = Parted.of(self.model, self.tokenizer, self.texts, self.protocol.training).learning
        with tempfile.TemporaryDirectory() as scratch:
            setup = TrainingSetup.before_cut(
                self.model,
                self.tokenizer,
                request.data or "",
                learning,
                self.protocol.training,
                Path(scratch),
                False,
                self.track,
            )
            loaded = Loaded(self.model, self.tokenizer, cache=False)
            made = compress_loaded(loaded, recipe, learning, setup, track=self.track)
        row = self._row(recipe.keep, time.perf_counter() - started, peak.so_far())
        for note in [*made.notes, *self._size_notes(row)]:
            self.send({"note": note, "keep": recipe.keep})
        self._measure(row)

    def _cut(self, course: Course, recipe: Recipe, shared: float, peak: Peak) -> None:
        started = time.perf_counter()
        made = course.cut(recipe, keep_dense=True)
        assert made is not None
        cut: Cut = course.rounded(made, recipe, keep_dense=True)
        seconds = shared + time.perf_counter() - started
        assert recipe.keep is not None
        row = self._row(recipe.keep, seconds, peak.so_far())
        for note in [*cut.notes, *self._size_notes(row)]:
            self.send({"note": note, "keep": recipe.keep})
        self._measure(row)

    def _row(self, keep: float, seconds: float | None = None, peak: int | None = None) -> ComparisonRow:
        """A row of the model as it is now, without its value; or its name alone without `seconds`."""
        row = ComparisonRow(
            method=self.request.method,
            keep=keep,
            of=self.protocol.of,
            quantize=None if self.request.recipe is None else self.request.recipe.quantize,
            task=self.protocol.task,
        )
        if seconds is not None:
            row.parameters = replacing.count_parameters(self.model)
            row.targets_parameters = self.targets_before - self.before + row.parameters
            row.bytes = replacing.count_bytes(self.model)
            row.seconds = seconds
            row.peak_memory_bytes = Peak().so_far() if peak is None else peak
        return row

    def _size_notes(self, row: ComparisonRow) -> list[str]:
        """A note where more is left than was asked for: a row must not win by that unseen."""
        pairs = {
            "model": (row.parameters, self.before),
            "targets": (row.targets_parameters, self.targets_before),
        }
        after, before = pairs[row.of]
        if (after or 0) <= row.keep * before:
            return []
        return [f"{(after or 0) / before:.3f} of the {row.of} is left, more than was asked for"]

    def _measure(self, row: ComparisonRow) -> None:
        """Measure the model as it is now and send its row, with what went wrong where it could not be."""
        request = self.request
        material = self.material[: self.protocol.limit]
        try:
            score = measure(
                self.model,
                self.tokenizer,
                self.protocol.task,
                material,
                self.protocol.limit,
                self.protocol.max_length,
                self.track,
            )
        except Exception as error:
            if request.recipe is None:
                raise
            self._show_traceback()
            row.error = in_one_line(error)
        else:
            row.metric, row.value, row.loss = score.metric, score.value, score.details.get("loss")
            if self.beside and (moved := self.beside.divergence(self.model)):
                row.divergence, row.same_top = moved
        self.send({"row": row.model_dump()})

    def _show_traceback(self) -> None:
        if self.request.debug:
            traceback.print_exc()


class Peak:
    """The largest resident size of this process, without what was said to be forgotten.

    Linux keeps a mark for each process that can be put back. Elsewhere, and where that is not allowed, there
    is one mark that nothing is forgotten of; on Linux it would count the parent's memory too.
    """

    def __init__(self) -> None:
        self._before = 0

    def so_far(self) -> int:
        """Bytes."""
        self._before = max(self._before, peak_memory_bytes())
        return self._before

    def forget(self) -> None:
        """What happened since `so_far`."""
        gc.collect()
        with suppress(AttributeError):  # glibc keeps what is freed, unless it is told
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def progress_sender(send: Send) -> Track:
    """A `Track` that sends where it is. A loop within a loop is left out."""
    busy = False

    def track(items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        nonlocal busy
        if busy:
            yield from items
            return
        busy = True
        try:
            send({"begin": description, "total": total})
            for item in items:
                yield item
                send({"step": 1})
        finally:
            busy = False

    return track


def _end_with_asker() -> None:
    """Wait until standard input closes, then end at once."""
    # Not by `sys.stdin`, whose lock a thread that waits would still hold when Python ends.
    while os.read(0, 4096):
        pass
    os._exit(1)


def _private_output() -> TextIO:
    """Standard output for this file alone: what libraries print goes to standard error."""
    own = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return own


def main() -> None:
    """Answer one request."""
    # Ctrl-C in a terminal reaches this process too; whoever asked ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = _private_output()

    def send(message: dict[str, Any]) -> None:
        output.write(json.dumps(message, allow_nan=False) + "\n")
        output.flush()

    request = Request.model_validate_json(sys.stdin.readline())
    threading.Thread(target=_end_with_asker, daemon=True).start()
    try:
        with loading.dropping(request.protocol.drop_unused):
            MethodRun(request, send).rows()
    except Exception as error:
        if request.debug:
            traceback.print_exc()
        send({"error": in_one_line(error), "exit_code": getattr(error, "exit_code", 1)})
