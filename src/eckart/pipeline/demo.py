"""The main job on the built-in model: compress, save, load, measure; dense beside four methods."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from eckart.estimate.planned import Plan
from eckart.evaluation.machine import Stopwatch
from eckart.evaluation.measuring import POCKET
from eckart.pipeline.compress import compress
from eckart.pipeline.evaluate import evaluate
from eckart.pipeline.plan import plan
from eckart.types import Track, silent

METHODS = ("svd", "asvd", "svd-llm", "auto")
KEEPS = (0.8, 0.6)


@dataclass(frozen=True)
class Row:
    """One model of the demo: `keep` as asked for, counts as saved, a value for each skill."""

    method: str
    keep: float
    parameters: int
    bytes: int
    skills: dict[str, float]
    seconds: float


def demo(limit: int = 200, track: Track = silent) -> list[Row]:
    """Measure the pocket model dense and compressed; every compressed model is saved and loaded again.

    Args:
        limit: held-out samples of each skill.
    """
    whole = plan("pocket", keep=1.0)
    assert isinstance(whole, Plan)
    rows = [Row("dense", 1.0, whole.parameters.before, whole.bytes.before, *_measure("pocket", limit, track))]
    with tempfile.TemporaryDirectory() as scratch:
        for keep in KEEPS:
            for method in METHODS:
                out = Path(scratch) / f"{method}-{keep}"
                made = compress("pocket", out, method=method, keep=keep, data="pocket", track=track)
                count, size = made.manifest.parameters, made.manifest.bytes
                rows.append(Row(method, keep, count.after, size.after, *_measure(str(out), limit, track)))
    return rows


def _measure(model: str, limit: int, track: Track) -> tuple[dict[str, float], float]:
    watch = Stopwatch()
    skills = {task: evaluate(model, task, limit=limit, track=track).value for task in POCKET}
    return skills, watch.seconds()
