"""Any task of lm-evaluation-harness by its name, through its Python API, on a loaded model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from eckart.data import without_bars
from eckart.evaluation.asking import Request
from eckart.evaluation.keeping import append_lines, read_lines
from eckart.evaluation.score import Score
from eckart.types import EckartError, Track, UsageError

PREFIX = "lm-eval:"
ANSWERS = "answers.jsonl"
CHUNK = 32
"""Batches of requests between two times that answers are put on disk."""
LONGEST_REASON = 300
NOT_METRICS = ("alias", "name", "sample_len", "sample_count")


def find(task: str, include: str | None) -> Any:
    """The harness's task manager, which knows the task.

    Args:
        task: as `lm-eval:NAME`; a task, a group or a tag.
        include: a folder with tasks of one's own.

    Raises:
        UsageError: the harness is not there, or knows no such task.
    """
    if include is not None and not Path(include).is_dir():
        raise UsageError(f"--include {include}: no such folder")
    try:
        manager = _manager(include)
    except ModuleNotFoundError as error:
        raise UsageError(f'{task} needs {error.name}: pip install "eckart[eval]"') from None
    name = task.removeprefix(PREFIX)
    if name not in manager.all_tasks:
        raise UsageError(
            f"{task}: lm-eval knows no task {name!r}; `lm-eval ls tasks` lists those it has, "
            "and --include FOLDER adds others"
        )
    return manager


@cache
def _manager(include: str | None) -> Any:
    """The harness reads thousands of tasks, which takes seconds."""
    from lm_eval.tasks import TaskManager

    with _quiet():
        return TaskManager(include_path=include)


def harness(request: Request) -> Score:
    """The task's first metric, and all that the harness says of it.

    Each answer of the model is kept as soon as a few batches are there, so that a run can be gone on with.

    Raises:
        EckartError: the task's data cannot be had, or it failed.
    """
    from lm_eval import simple_evaluate

    settings, (manager,) = request.settings, request.material
    name = request.task.removeprefix(PREFIX)
    request.kept.begin()
    path = request.kept.folder / ANSWERS if request.kept.folder else None
    try:
        with _quiet():
            model = _keeping()(
                pretrained=request.model,
                tokenizer=request.tokenizer,
                batch_size=settings.batch,
                max_length=settings.max_length,
            )
            model.keep(path, request.track, settings.batch * CHUNK)
            results = simple_evaluate(
                model=model,
                tasks=[name],
                num_fewshot=settings.shots,
                limit=settings.limit,
                task_manager=manager,
                log_samples=path is not None,
                bootstrap_iters=0,
                confirm_run_unsafe_code=settings.allow_code_execution,
            )
    except EckartError:
        raise
    except Exception as error:  # the harness and its tasks raise what they like
        words = " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
        raise EckartError(f"{request.task}: lm-eval could not run it ({words})") from error
    request.kept.rows = dict(enumerate(_samples(results.get("samples") or {})))
    tables = {task: _figures(row) for task, row in results["results"].items()}
    metric, value = _first(tables, name)
    return Score(request.task, metric, value, {"results": tables, "samples": _count(results)})


def _count(results: dict[str, Any]) -> int:
    return sum(entry["effective"] for entry in results["n-samples"].values())


def _figures(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of a task with a value, without the filter where it is none."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in row.items()
        if isinstance(value, (int, float)) and math.isfinite(value) and name not in NOT_METRICS
    }


def _first(tables: dict[str, dict[str, float]], name: str) -> tuple[str, float]:
    """The first metric that is no standard error; of a group without its own, the mean of its tasks'."""

    def own(table: dict[str, float]) -> list[str]:
        return [metric for metric in table if "_stderr" not in metric]

    if metrics := own(tables.get(name, {})):
        return metrics[0], tables[name][metrics[0]]
    with_some = [table for table in tables.values() if own(table)]
    if not with_some:
        raise EckartError(f"{PREFIX}{name}: lm-eval gave no figure that is finite")
    metric = own(with_some[0])[0]
    values = [table[metric] for table in with_some if metric in table]
    return f"mean of {metric}", sum(values) / len(values)


def _samples(samples: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    place = 0
    for task, rows in samples.items():
        for row in rows:
            kept = {"index": place, "task": task, "prompt": row["arguments"], "written": row["resps"]}
            kept |= {"reference": row["target"], **{name: row[name] for name in row["metrics"]}}
            yield json.loads(json.dumps(kept, default=str))
            place += 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's own log, and with nothing of its on standard output."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr), without_bars():
            yield
    finally:
        logger.setLevel(level)


@cache
def _keeping() -> Any:
    """The harness's wrapper of transformers, with a memory on disk; made once the harness is wanted."""
    from lm_eval.models.huggingface import HFLM

    class Keeping(HFLM):  # type: ignore[misc]
        """Answers what it was asked before from a file of answers, a line each."""

        def keep(self, path: Path | None, track: Track, chunk: int) -> None:
            self.path, self.track, self.chunk = path, track, chunk
            self.known = _known(path)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return [tuple(answer) for answer in self._answered("loglikelihood", requests)]

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return self._answered("loglikelihood_rolling", requests)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return self._answered("generate_until", requests)

        def _answered(self, kind: str, requests: list[Any]) -> list[Any]:
            answer: Callable[..., list[Any]] = getattr(super(), kind)
            keys = _keys(kind, requests)
            left = {
                key: request for key, request in zip(keys, requests, strict=True) if key not in self.known
            }
            todo = list(left.items())
            chunks = [todo[at : at + self.chunk] for at in range(0, len(todo), self.chunk)]
            for chunk in self.track(chunks, "answering", len(chunks)):
                found = answer([request for _, request in chunk], disable_tqdm=True)
                fresh = dict(zip([key for key, _ in chunk], found, strict=True))
                self.known |= fresh
                if self.path is not None:
                    append_lines(self.path, fresh.items())
            return [self.known[key] for key in keys]

    return Keeping


def _keys(kind: str, requests: list[Any]) -> list[str]:
    """What each request is known by; several tries at one prompt are several answers."""
    tries: Counter[str] = Counter()
    keys = []
    for request in requests:
        said = json.dumps([kind, request.args], default=str)
        keys.append(hashlib.sha256(f"{said} {tries[said]}".encode()).hexdigest())
        tries[said] += 1
    return keys


def _known(path: Path | None) -> dict[str, Any]:
    """What was answered before."""
    return {} if path is None else dict(read_lines(path))
