"""The greedy search of the LASER paper: which matrix of which block, at which ratio."""

from __future__ import annotations

from collections.abc import Sequence

from eckart.model.targets import block_of
from eckart.sweeping.grid import cost, left, rank_at
from eckart.sweeping.measuring import SEARCH_PART, Evaluator, Measured
from eckart.types import Step, Target, Track


def search(
    evaluator: Evaluator,
    targets: Sequence[Target],
    ratios: Sequence[float],
    lower: bool,
    structure: str,
    total: int,
    track: Track,
) -> tuple[list[Step], dict[str, int]]:
    """From the last block to the first, each matrix at the smallest ratio that costs nothing.

    A ratio is taken where the score is at least as good as without it; what was taken stays while the next
    matrix is tried (Sharma et al. 2023, arXiv 2312.13558). They look at the MLP alone; here it is every
    target that is inside a block.

    Args:
        lower: whether a small score is a good one.
        total: parameters of the dense model.

    Returns:
        Every trial in order, and the ranks that were taken.
    """
    model = evaluator.truncated.bench.model
    placed = [(block, target) for target in targets if (block := block_of(model, target.name))]
    stacks = list(dict.fromkeys(stack for (stack, _), _ in placed))
    # Sorting keeps the model's order within a block.
    placed.sort(key=lambda each: (-stacks.index(each[0][0]), -each[0][1]))
    steps: list[Step] = []
    taken: dict[str, int] = {}
    now = evaluator.measure({}, SEARCH_PART)
    for (stack, block), target in track(placed, "searching", len(placed)):
        for ratio in sorted(ratios):
            rank = rank_at(ratio, target)
            ranks = {**taken, target.name: rank}
            trial = evaluator.measure(ranks, SEARCH_PART)
            smaller = cost(target, rank, structure) < target.out_features * target.in_features
            takes = _at_least_as_good(trial, now, lower, smaller)
            steps.append(
                Step(
                    stack=stack,
                    block=block,
                    kind=target.name.removeprefix(f"{stack}.{block}."),
                    ratio=ratio,
                    parameters=left(total, targets, ranks, structure),
                    value=trial.value,
                    loss=trial.loss,
                    taken=takes,
                    error=trial.error,
                )
            )
            if takes:
                taken, now = ranks, trial
                break
    return steps, taken


def _at_least_as_good(trial: Measured, now: Measured, lower: bool, smaller: bool) -> bool:
    """Whether a trial is at least as good as what is there. Loss settles equal scores, and then size."""
    if trial.error is not None or trial.value is None or now.value is None:
        return False
    if trial.value != now.value:
        return (trial.value < now.value) == lower
    if trial.loss is not None and now.loss is not None and trial.loss != now.loss:
        return trial.loss < now.loss
    return smaller
