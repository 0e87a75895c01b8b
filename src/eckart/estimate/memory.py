"""What `compress` takes of memory, with the whole model there or one block at a time: a guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eckart import recipes
from eckart.calibrate import GRADIENT_KINDS
from eckart.calibrate.sums import dtype_of
from eckart.estimate import time
from eckart.recipes import making
from eckart.types import SAMPLE_TOKENS, Recipe, Target

INTERPRETER_BYTES = 700_000_000
"""Python with torch and transformers loaded."""
SINGLE, DOUBLE = 4, 8
BATCH_TOKENS = 8192
LEAST_BATCH_TOKENS = 256
PER_TOKEN = 12
"""All activations of a block for a token while it runs, as multiples of the widest."""
LEAST_WAITING = 64_000_000
TRAINED = 10
"""Bytes of a weight: itself in float32 and, of the half that is trained, a gradient and two moments."""
SHELVED_BYTES = 2**28
"""Of moments, above which a store in memory has them wait on disk."""


@dataclass(frozen=True)
class Need:
    """Bytes at the peak.

    Attributes:
        whole: with the whole model in memory.
        block: with one block, but for what `tokens` in a batch and waiting activations take.
        token: for each token in a batch.
    """

    whole: int
    block: int
    token: int

    def batch_tokens(self, limit: int) -> int:
        """Tokens in a batch for which a block fits, with a quarter of what is left for what waits."""
        left = limit - self.block
        left -= max(LEAST_WAITING, left // 4)
        tokens = BATCH_TOKENS
        while tokens > LEAST_BATCH_TOKENS and tokens * self.token > left:
            tokens //= 2
        return tokens

    def waiting(self, limit: int) -> int:
        """Bytes of activations that may wait in memory."""
        return max(LEAST_WAITING, limit - self.block - self.batch_tokens(limit) * self.token)

    @property
    def least(self) -> int:
        """What a block takes with the smallest batch."""
        return self.block + LEAST_BATCH_TOKENS * self.token + LEAST_WAITING


def need(weights: int, item: int, blocks: dict[str, list[Target]], outside: int, recipe: Recipe) -> Need:
    """Estimate it.

    Args:
        weights: bytes of the whole model.
        item: bytes of one of its weights.
        blocks: targets of each block.
        outside: bytes of what is in no block.
    """
    metric = recipes.find_metric(recipe.metric)
    every = [target for targets in blocks.values() for target in targets]
    inputs = {block: _inputs(targets) if metric.moments else 0 for block, targets in blocks.items()}
    two_sided = bool(metric.moments & GRADIENT_KINDS)
    outputs = {
        block: sum(_sum_bytes(target.out_features) for target in targets) if two_sided else 0
        for block, targets in blocks.items()
    }
    solving = DOUBLE * max(map(_solving, every), default=0)
    sizes = {
        block: sum(target.out_features * target.in_features for target in targets)
        for block, targets in blocks.items()
    }
    # Factors at the largest rank that pays.
    kept = 0 if making.knows_options(recipe) else 2 * SINGLE * sum(sizes.values())
    trained = TRAINED * sum(sizes.values()) if making.imitates(recipe) else 0
    widest = max((max(t.out_features, t.in_features) for t in every), default=0)
    token = PER_TOKEN * widest * max(item, SINGLE) if metric.moments else 0
    # The metric of one target's outputs: its moment, shrunk, and factored.
    left = 2 * DOUBLE * max((t.out_features**2 for t in every), default=0) if two_sided else 0
    fitted = 0
    if making.needs_data(recipe) and time.refit_comes(recipe, every, SAMPLE_TOKENS):
        # What every space of a block read of all tokens, and where both models are.
        read = max((sum(_spaces(targets)) for targets in blocks.values()), default=0)
        fitted = SAMPLE_TOKENS * item * (read + 2 * min((t.in_features for t in every), default=0))
    block = 0
    for name in blocks:
        watching = max(inputs[name], outputs[name]) + (SINGLE * widest**2 if metric.moments else 0)
        there = item * sizes[name] * 3 // 2
        block = max(block, there + max(watching, inputs[name] + outputs[name] + left + solving))
    moments = sum(inputs.values()) + sum(outputs.values())
    running = BATCH_TOKENS // 4 * token
    summed = min(moments, SHELVED_BYTES)
    # What is summed is there until it is solved, and many sums wait on disk; then what is trained is there.
    solved = kept + left + solving + summed
    return Need(
        whole=INTERPRETER_BYTES
        + weights
        + max(moments + running, solved, kept + summed + fitted + running, trained + running),
        block=INTERPRETER_BYTES + outside + block,
        token=token,
    )


def _inputs(targets: Sequence[Target]) -> int:
    """A Gram for each input space."""
    return sum(map(_sum_bytes, _spaces(targets)))


def _spaces(targets: Sequence[Target]) -> list[int]:
    """Widths of the input spaces; those that share one have one parent and one width."""
    spaces = {(target.name.rpartition(".")[0], target.in_features) for target in targets}
    return [width for _, width in spaces]


def _sum_bytes(width: int) -> int:
    return width**2 * dtype_of((width, width)).itemsize


def _solving(target: Target) -> int:
    """Values that are held while one target is decomposed: itself, itself weighed, and an eigenproblem."""
    small = min(target.out_features, target.in_features)
    return 2 * target.out_features * target.in_features + 4 * small**2


def said(size: Any) -> str:
    """Bytes as people say them."""
    return f"{size / 1e9:.1f} GB"
