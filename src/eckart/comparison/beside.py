"""How far each model of a comparison is from the dense one, token by token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from eckart.compression.imitation import Answers, UnknownHeadError
from eckart.evaluation.tasks.against import compared
from eckart.model import text
from eckart.types import Text, Track

TOKENS = 8192
"""Of what the task reads, spread over all of it: each model reads them once more."""
BATCH_TOKENS = 1024


class Beside:
    """What the dense model says of the next token, to compare others with.

    Args:
        model: dense; it is asked at once, and needed no more.
        cut: windows of what the task reads; at least one.

    Raises:
        UnknownHeadError: what it says cannot be kept.
    """

    def __init__(self, model: Any, tokenizer: Any, cut: Sequence[text.Window], track: Track) -> None:
        self.batches = text.batches(model, tokenizer, cut, BATCH_TOKENS, said=True)
        self.answers = Answers(model, tokenizer, cut)
        self.answers.ask(track)
        self.answers.let_go()

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        texts: Sequence[Text],
        max_length: int,
        limit: int | None,
        track: Track,
    ) -> Beside | None:
        """Beside a model on texts; `None` where it predicts nothing, or what it says cannot be kept.

        Args:
            limit: of windows, where there is one text.
        """
        if not model.can_generate():
            return None
        every = text.windows(model, tokenizer, texts, max_length)[: limit if len(texts) == 1 else None]
        whole = sum(len(window.ids) for window in every)
        count = min(len(every), math.ceil(len(every) * TOKENS / max(1, whole)))
        cut = [every[at * len(every) // count] for at in range(count)]
        try:
            return cls(model, tokenizer, cut, track) if cut else None
        except UnknownHeadError:
            return None

    def divergence(self, model: Any) -> tuple[float, float] | None:
        """The mean of `KL(dense ‖ model)` over tokens in nats, and how often both find the same likeliest.

        `None` where that is no finite number.
        """
        rows = [row for batch in self.batches for row in compared(model, self.answers, batch)]
        _, _, apart, same = np.concatenate(rows, axis=1).mean(axis=1)
        return (float(apart), float(same)) if np.isfinite(apart) else None
