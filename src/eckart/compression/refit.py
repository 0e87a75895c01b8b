"""Closed-form refit, front to back: each target follows the dense model from what it really reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from eckart import calibrate, linalg
from eckart.compression.bench import Bench
from eckart.model import mixtures
from eckart.structures import BITS, Site
from eckart.types import EckartError, Option, TargetRecord

RIDGE = 1e-2
"""Towards the dense weight, relative to the mean eigenvalue of what is read."""


def refit(bench: Bench, options: Mapping[str, Option], batches: Sequence[Any], keep_dense: bool) -> list[str]:
    """Replace the sites by these options, each fitted to what the model cut before it hands it (METHODS §5).

    Errors add up through the layers. With `x` what a target reads in the dense model and `x̂` what it reads in
    the compressed one, its weight becomes the best map from `x̂` to `W x`, and that is replaced in the
    metric of `x̂` on the right and the recipe's own on the left: reduced-rank regression (AA-SVD, arXiv
    2604.02119; there the left is the identity). Targets that stay dense are refitted too: that costs no
    parameter.

    Blocks are walked in order with two streams of hidden states, the dense model's and the compressed
    one's, through one set of modules, and finished one by one. Sites outside the blocks, groups, and all in a
    model that cannot be walked, are replaced without a refit.

    Args:
        options: by the names of the sites.
        batches: what to fit on.
        keep_dense: so that `bench.restore` is possible.

    Returns:
        What a user should know.
    """
    store = bench.store
    notes = []
    done: set[str] = set()
    with ExitStack() as stack:
        try:
            dense, cut = (stack.enter_context(store.walk(batches)) for _ in range(2))
        except calibrate.NotWalkableError as error:
            notes.append(f"not refitted: {error}")
        else:
            for module in store.track(dense.path(), "refitting", dense.length):
                piece = store.name_of(module)
                _walk_block(bench, piece, _Block(store.at.get(piece, []), options), dense, cut, keep_dense)
                done.add(piece)
    for piece in store.pieces():
        if piece not in done:
            with store.resident(piece):
                store.install(bench, piece, dict(options), keep_dense)
    return notes


class _Block:
    """The sites of one block, by the input spaces of those that can be refitted."""

    def __init__(self, sites: Sequence[Site], options: Mapping[str, Option]) -> None:
        self.sites, self.options = sites, options

    def leaders(self, spaces: Mapping[str, str]) -> dict[str, list[Site]]:
        """Sites that read one input, by the first target of them.

        A space that several blocks read (an encoder's last states) is led by a target of the first of them.
        """
        found: dict[str, list[Site]] = {}
        for site in self.sites:
            if len(site.targets) == 1:
                found.setdefault(spaces[site.name], []).append(site)
        return {members[0].name: members for members in found.values()}


def _walk_block(
    bench: Bench, piece: str, block: _Block, dense: calibrate.Walk, cut: calibrate.Walk, keep_dense: bool
) -> None:
    """Replace a block's sites input space by input space as they are called, finish it, and step over it."""
    store = bench.store
    if store.finished(piece):
        with store.resident(piece):
            dense.step()
        store.recall(piece)
        with store.resident(piece):
            cut.step()
        return
    with store.resident(piece):
        placed = _refit_block(bench, block, dense, cut, keep_dense)
        for site in block.sites:
            if site.name not in placed:
                placed[site.name] = bench.place(site, block.options[site.name], keep_dense=keep_dense)
        store.finish(bench, piece, [record for site in block.sites for record in placed[site.name]])
    store.recall(piece)


def _refit_block(
    bench: Bench, block: _Block, dense: calibrate.Walk, cut: calibrate.Walk, keep_dense: bool
) -> dict[str, list[TargetRecord]]:
    """The records of the sites that the block called, by name; both streams go on to the next block."""
    assert bench.store.observed is not None
    leaders = block.leaders(bench.store.observed.spaces)
    before: dict[str, list[Any]] = {name: [] for name in leaders}
    called = dense.inputs(list(leaders), lambda index, name, x: before[name].append(x)) if leaders else []
    dense.step()
    placed: dict[str, list[TargetRecord]] = {}
    for leader in dict.fromkeys(called):
        pair = calibrate.Pair()
        complete = _pair(cut, leader, before.pop(leader), pair)
        for site in leaders[leader]:
            option = block.options[site.name]
            placed[site.name] = (
                _place_refitted(bench, site, option, pair, keep_dense)
                if complete
                else bench.place(site, option, keep_dense=keep_dense)
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
    # Nothing but zeros tells nothing of a weight.
    return complete and pair.second is not None and bool(pair.second.diagonal().any())


def _place_refitted(
    bench: Bench, site: Site, option: Option, pair: calibrate.Pair, keep_dense: bool
) -> list[TargetRecord]:
    assert pair.cross is not None
    assert pair.second is not None
    (target,) = site.targets
    dense = bench.weight(target.name)
    try:
        weight, right = linalg.follow(dense, pair.cross, pair.second, pair.tokens, RIDGE)
    except (ValueError, RuntimeError) as error:
        raise EckartError(f"{target.name} could not be refitted: {error}") from error
    bits = None if option.bits is None else BITS[option.bits]
    problem = linalg.Problem(weight, bench.left(target.name), right, dense.dtype, bits)
    records = bench.place(site, option, [problem], keep_dense=keep_dense)
    if option.structure == "dense":
        bench.reweigh(target, weight, keep_dense)
    return records
