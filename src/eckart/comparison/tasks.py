"""What every model of a comparison is measured by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eckart.comparison.protocol import data_digest
from eckart.data import is_built_in, read_texts
from eckart.data.splitting import hold_out
from eckart.evaluation.measuring import COMPARED, read_material
from eckart.model import building, loading
from eckart.types import UsageError, unknown


def choose_task(task: str | None, test: str | None, config: Any) -> str:
    """The task that is meant, which the model can do."""
    writes, kind = loading.generates(config), building.model_class(config).__name__
    if task is None:
        task = "perplexity" if writes else "stsb"
    if task not in COMPARED:
        raise UsageError(unknown("task", task, COMPARED))
    if task == "stsb" and writes:
        raise UsageError(f"{kind} gives no hidden states to pool: stsb is for encoders")
    if task == "stsb" and test is None:
        raise UsageError("task stsb needs sentence pairs: give --test FILE")
    if task != "stsb" and not writes:
        raise UsageError(
            f"{kind} predicts no next token, and task {task} needs a model that does: give --task stsb"
        )
    if task not in ("perplexity", "stsb") and test is not None:
        raise UsageError(f"task {task} brings its own data: leave --test {test} out")
    return task


def choose_test(
    task: str, data: str | None, test: str | None, writes: bool
) -> tuple[str | None, bool, list[str]]:
    """What the task reads, whether that is held out of the data instead, and what to tell. All is read once.

    Raises:
        UsageError: there is nothing to measure on, or what is there is no text.
    """
    texts = read_texts(data, lines=not writes) if data is not None else []
    if task not in ("perplexity", "stsb"):
        return None, False, []
    if test is None and data is not None and is_built_in(data):
        test = data
    if test is not None:
        read_material(task, test, writes)
        seen = data is not None and not is_built_in(test) and data_digest(test) == data_digest(data)
        return test, False, ["methods calibrate on what the task is measured on"] if seen else []
    if data is None:
        raise UsageError(f"task {task} needs texts: give --test FILE, or --data FILE to hold some out of")
    _, held = hold_out(texts)
    if not held:
        raise UsageError(
            f"{data} has too few texts ({len(texts)}) to hold every eighth out: give --test FILE for the task"
        )
    return (
        None,
        True,
        [
            f"without --test, {task} is measured on every eighth text of {Path(data).name}, {len(held)} of "
            f"{len(texts)}, which methods do not calibrate on"
        ],
    )
