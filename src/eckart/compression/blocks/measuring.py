"""What a model of which one block is in memory says: cut models walk side by side through the blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from eckart import calibrate, checkpoint, structures
from eckart.compression.store import OUTSIDE
from eckart.evaluation import Moved, Reference
from eckart.evaluation.divergence import REFERENCE_BYTES, rows_of
from eckart.model import replacing, text
from eckart.structures import Site
from eckart.types import Option

if TYPE_CHECKING:
    from eckart.compression.bench import Bench
    from eckart.compression.blocks.store import BlockStore

STREAMS = 8
"""Cut models that walk side by side."""


def reference(store: BlockStore) -> Reference | None:
    """What the dense model says on held-out windows; `None` where there are none."""
    batches, size = [], 0
    for batch in store.divided.held_out():
        batches.append(batch)
        size += 4 * store.columns * rows_of(batch)
        if size > REFERENCE_BYTES:
            break
    if not batches:
        return None
    found = Reference(batches)
    outputs(store, batches, lambda index, output: found.keep(store.model, output))
    found.begin()
    return found


def outputs(store: BlockStore, batches: Sequence[text.Batch], give: Callable[[int, Any], Any]) -> list[Any]:
    """What `give` makes of what the model as it is now gives to each batch."""
    with ExitStack() as stack:
        spill = stack.enter_context(checkpoint.Spill(store.work, store.portion.waiting))
        walk = stack.enter_context(calibrate.Walk(store.model, store.blocks, batches, shelf=spill, give=give))
        for block in store.track(walk.path(), "measuring", len(store.order)):
            with store.resident_block(block):
                walk.step()
        return [walk.given[index] for index in range(len(batches))]


def measure(
    store: BlockStore, bench: Bench, reference: Reference, several: Sequence[Sequence[Option]]
) -> list[Moved]:
    """How far the model moves with its sites replaced by each of several choices of options."""
    moved: list[Moved] = []
    for at in range(0, len(several), STREAMS):
        moved += _side_by_side(store, bench, reference, several[at : at + STREAMS])
    return moved


def _side_by_side(
    store: BlockStore, bench: Bench, reference: Reference, several: Sequence[Sequence[Option]]
) -> list[Moved]:
    with ExitStack() as stack:
        spill = stack.enter_context(checkpoint.Spill(store.work, store.portion.waiting))
        walks: list[tuple[calibrate.Walk, dict[str, Option]]] = []
        for options in several:
            walk = calibrate.Walk(
                store.model, store.blocks, reference.batches, shelf=spill, give=reference.part
            )
            wanted = {site.name: option for site, option in zip(bench.sites, options, strict=True)}
            walks.append((stack.enter_context(walk), wanted))
        for block in store.track(walks[0][0].path(), "measuring", len(store.order)):
            name = store.name_of(block)
            # Behind the last block the head runs, in the same step.
            here = [*store.at[name], *(store.at[OUTSIDE] if name == store.order[-1] else [])]
            with store.resident_block(block):
                kept = _factors(bench, here, [wanted for _, wanted in walks])
                for walk, wanted in walks:
                    with replacing.stand_ins(store.model, _weights(bench, here, wanted, kept)):
                        walk.step()
        count = range(len(reference.batches))
        return [reference.moved([walk.given[index] for index in count]) for walk, _ in walks]


def _factors(bench: Bench, sites: Sequence[Site], several: Sequence[Mapping[str, Option]]) -> dict[Any, Any]:
    """Factors of each site at the largest size that one of the choices has: those of less are parts."""
    kept = {}
    for site in sites:
        wanted = [choice[site.name] for choice in several]
        sizes = [option.size or 0 for option in wanted if structures.find(option.structure).spectral]
        if sizes:
            (target,) = site.targets
            U, V = bench.decomposition(target).factors(bench.weight(target.name), max(sizes))
            kept[target.name] = U.float(), V.float()
    return kept


def _weights(
    bench: Bench, sites: Sequence[Site], wanted: Mapping[str, Option], kept: dict[Any, Any]
) -> Iterator[tuple[str, Any]]:
    """The weights that stand for options; `kept` has factors, and gets what others were fitted to."""
    for site in sites:
        option = wanted[site.name]
        if option.structure == "dense":
            continue
        if structures.find(option.structure).spectral:
            (target,) = site.targets
            U, V = kept[target.name]
            assert option.size is not None
            yield target.name, U[:, : option.size].double() @ V[: option.size].double()
            continue
        if (site.name, option) not in kept:
            kept[site.name, option] = bench.approximated(site, option)
        for target, weight in zip(site.targets, kept[site.name, option], strict=True):
            yield target.name, weight
