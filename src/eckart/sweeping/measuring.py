"""Measurements of the models of a sweep: score, loss and continuations, each made once."""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

from eckart import checkpoint
from eckart.evaluation import Request
from eckart.evaluation.generation import generate
from eckart.evaluation.keeping import Kept
from eckart.evaluation.measuring import run
from eckart.sweeping.truncating import Truncated
from eckart.types import EckartError, in_one_line

ALL, SEARCH_PART, REST = "all", "seen", "rest"
"""Parts of the data: a search looks at one in so many texts, and everything else is measured on the rest."""
SEARCHED = 5
"""One text in so many is what a search looks at: the paper's 20%."""


@dataclass(frozen=True)
class Measured:
    """What was measured of one model; `error` says why there is no value."""

    metric: str | None = None
    value: float | None = None
    loss: float | None = None
    continuations: tuple[str, ...] = ()
    error: str | None = None


class Evaluator:
    """Measures a model at given ranks, once for each set of them, and keeps what came out.

    Args:
        truncated: the model.
        request: the task on all of the data; `None` where prompts alone are continued.
        prompts: to be continued by `continuation` tokens, greedily.
        kept: where every measurement goes as soon as it is there, and where those of before are.
        debug: show the tracebacks of what failed.
    """

    def __init__(
        self,
        truncated: Truncated,
        tokenizer: Any,
        request: Request | None,
        prompts: Sequence[str],
        continuation: int,
        kept: Kept,
        debug: bool = False,
    ) -> None:
        self.truncated, self.tokenizer, self.request = truncated, tokenizer, request
        self.prompts, self.continuation = list(prompts), continuation
        self.kept, self.debug = kept, debug

    def measure(self, ranks: Mapping[str, int], part: str = ALL) -> Measured:
        """The model at these ranks, on a part of the data.

        Raises:
            UsageError, EckartError: the dense model cannot do what is asked. Of all others the error is
                what was measured, and is not kept for another run.
        """
        key = checkpoint.json_digest([part, sorted(ranks.items())])[:16]
        row = self.kept.rows.get(key)
        if row is None or row["error"] is not None:
            found = self._measure(ranks, part)
            row = {"key": key, **vars(found), "continuations": list(found.continuations)}
            self.kept.add([row])
        values = {name: value for name, value in row.items() if name != "key"}
        return Measured(**{**values, "continuations": tuple(values["continuations"])})

    def _measure(self, ranks: Mapping[str, int], part: str) -> Measured:
        found = Measured()
        try:
            self.truncated.put(ranks)
            if part != SEARCH_PART and self.prompts:
                found = replace(found, continuations=tuple(self._continuations()))
            if self.request is not None:
                score = run(replace(self.request, material=self._material(self.request.material, part)))
                if not isfinite(score.value):
                    raise EckartError(f"{score.metric} is not finite: the model is broken")
                found = replace(found, metric=score.metric, value=score.value, loss=score.details.get("loss"))
        except Exception as error:
            if not ranks:
                raise
            if self.debug:
                traceback.print_exc()
            return replace(
                found, error="out of memory" if isinstance(error, MemoryError) else in_one_line(error)
            )
        return found

    def _continuations(self) -> list[str]:
        model = self.truncated.bench.model
        training = model.training
        model.eval()
        try:
            return generate(model, self.tokenizer, self.prompts, self.continuation)
        finally:
            model.train(training)

    def _material(self, material: list[Any], part: str) -> list[Any]:
        if part == SEARCH_PART:
            return material[::SEARCHED]
        if part == REST:
            return [one for index, one in enumerate(material) if index % SEARCHED]
        return material
