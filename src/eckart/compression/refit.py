"""Closed-form refit, front to back: each target follows the dense model from what it really reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart import calibrate, linalg
from eckart.compression.bench import Ranks, Workbench
from eckart.model import mixtures, targets
from eckart.types import EckartError, Target, TargetRecord

RIDGE = 1e-2
"""Towards the dense weight, relative to the mean eigenvalue of what is read."""

Batch = dict[str, Any]


@dataclass
class Refitted:
    """What a refit left behind: a record for each target in the model's order, and what to tell."""

    records: list[TargetRecord]
    notes: list[str] = field(default_factory=list)


def refit(bench: Workbench, ranks: Ranks, batches: Sequence[Batch], keep_dense: bool) -> Refitted:
    """Cut the targets to these ranks, each fitted to what the model cut before it hands it (METHODS §5).

    Errors add up through the layers. With `x` what a target reads in the dense model and `x̂` what it reads in
    the compressed one, its weight becomes the best map from `x̂` to `W x`, and that is decomposed in the
    metric of `x̂` on the right and the recipe's own on the left: reduced-rank regression (AA-SVD, arXiv
    2604.02119; there the left is the identity). Targets that stay dense are refitted too: that costs no
    parameter.

    Blocks are walked in order with two streams of hidden states, the dense model's and the compressed
    one's, through one set of modules. Targets outside the blocks, and all in a model that cannot be walked,
    are cut without a refit.

    Args:
        batches: what to fit on.
        keep_dense: so that `bench.restore` is possible.
    """
    placed: dict[str, TargetRecord] = {}
    result = Refitted([])
    blocks: dict[int, list[tuple[Target, int | None]]] = {}
    for target, rank in zip(bench.targets, ranks, strict=True):
        if (block := targets.block_of(bench.model, target.name)) is not None:
            blocks.setdefault(id(bench.model.get_submodule(".".join(map(str, block)))), []).append(
                (target, rank)
            )
    stacks = targets.stacks_of(bench.model, [target.name for target in bench.targets])
    try:
        calibrate.require_walkable(bench.model, stacks, batches[0])
    except calibrate.NotWalkableError as error:
        result.notes.append(f"not refitted: {error}")
    else:
        placed = _walk(bench, stacks, blocks, batches, keep_dense)
    left = [
        None if target.name in placed else rank for target, rank in zip(bench.targets, ranks, strict=True)
    ]
    for target, rank in zip(bench.targets, left, strict=True):
        if target.name not in placed:
            placed[target.name] = place_plainly(bench, target, rank, keep_dense)
    result.records = [placed[target.name] for target in bench.targets]
    return result


def _walk(
    bench: Workbench,
    stacks: Sequence[Any],
    chosen: dict[int, list[tuple[Target, int | None]]],
    batches: Sequence[Batch],
    keep_dense: bool,
) -> dict[str, TargetRecord]:
    """Refit block by block, the dense stream one step ahead."""
    placed: dict[str, TargetRecord] = {}
    with (
        calibrate.Walk(bench.model, stacks, batches) as dense,
        calibrate.Walk(bench.model, stacks, batches) as cut,
    ):
        for block in bench.track(dense.path(), "refitting", len(stacks)):
            placed |= refit_block(bench, chosen.get(id(block), []), dense, cut, keep_dense)
    return placed


def refit_block(
    bench: Workbench,
    chosen: list[tuple[Target, int | None]],
    dense: calibrate.Walk,
    cut: calibrate.Walk,
    keep_dense: bool,
) -> dict[str, TargetRecord]:
    """Refit one block's targets, input space by input space as they are called, and step over the block.

    Returns:
        The records of those that the block called.
    """
    assert bench.observed is not None
    spaces: dict[str, list[tuple[Target, int | None]]] = {}
    for target, rank in chosen:
        spaces.setdefault(bench.observed.spaces[target.name], []).append((target, rank))
    # A space that several blocks read (an encoder's last states) is led by a target of the first of them.
    leaders = {members[0][0].name: members for members in spaces.values()}
    before: dict[str, list[Any]] = {name: [] for name in leaders}
    called = dense.inputs(list(leaders), lambda index, name, x: before[name].append(x)) if leaders else []
    dense.step()
    placed: dict[str, TargetRecord] = {}
    for leader in dict.fromkeys(called):
        pair = calibrate.Pair()
        complete = _pair(cut, leader, before.pop(leader), pair)
        for target, rank in leaders[leader]:
            placed[target.name] = (
                _place_refitted(bench, target, rank, pair, keep_dense)
                if complete
                else place_plainly(bench, target, rank, keep_dense)
            )
    cut.step()
    return placed


def _pair(cut: calibrate.Walk, leader: str, before: list[Any], pair: calibrate.Pair) -> bool:
    """Sum what the leader read before with what it reads now; whether every token has both."""
    # An expert may be handed other tokens now, and as many by chance.
    known = not mixtures.is_expert(cut.model, leader)
    complete = known and len(before) == len(cut.batches) and all(x is not None for x in before)

    def use(index: int, name: str, after: Any) -> None:
        nonlocal complete
        if complete and after is not None and len(after) == len(before[index]):
            pair.add(before[index], after)
        else:
            complete = False

    if complete:
        cut.inputs([leader], use)
    return complete


def _place_refitted(
    bench: Workbench, target: Target, rank: int | None, pair: calibrate.Pair, keep_dense: bool
) -> TargetRecord:
    assert pair.cross is not None
    assert pair.second is not None
    try:
        weight, right = linalg.follow(bench.weight(target.name), pair.cross, pair.second, pair.tokens, RIDGE)
        sides = bench.left(target.name), right
        solved = None if rank is None else linalg.decompose(weight, *sides, rank=rank)
    except (ValueError, RuntimeError) as error:
        raise EckartError(f"{target.name} could not be refitted: {error}") from error
    record = bench.place(target, rank, weight, solved, sides, keep_dense)
    if rank is None:
        bench.reweigh(target, weight, keep_dense)
    return record


def place_plainly(bench: Workbench, target: Target, rank: int | None, keep_dense: bool) -> TargetRecord:
    """Cut a target to a rank without a refit."""
    weight = bench.weight(target.name).clone()
    solved = bench.solved(target, rank, keep_dense)
    return bench.place(target, rank, weight, solved, bench.sides(target.name), keep_dense)
