"""What every block reads and what a loss says back to it, and each block solved as soon as that is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from eckart import calibrate, checkpoint, recipes
from eckart.calibrate.observing import backward_tokens, labels_for, spread
from eckart.compression.store import OUTSIDE
from eckart.model import sentences, text
from eckart.types import Moment, Option, silent

if TYPE_CHECKING:
    from eckart.compression.bench import Bench
    from eckart.compression.blocks.store import BlockStore


class Pass:
    """One pass through a model, forward and where gradients are wanted back.

    Args:
        options: of each site, where they are known already: then each block is cut and written at once. Else
            its decompositions are kept.
    """

    def __init__(self, store: BlockStore, bench: Bench, options: dict[str, Option] | None) -> None:
        self.store, self.bench, self.options = store, bench, options
        self.metric = recipes.find_metric(store.recipe.metric)
        self.kinds = self.metric.moments or frozenset({"absolute"})
        self.two_sided = bool(self.kinds & calibrate.GRADIENT_KINDS)

    def run(self) -> None:
        """Do it, for blocks that are not done."""
        store = self.store
        todo = [block for block, sites in store.at.items() if sites and not self._done(block)]
        # All have looked before one writes.
        store.together.wait()
        if not todo:
            return
        if not store.divided.calibrating:
            for block in store.track(todo, "decomposing", len(todo)):
                with store.resident(block):
                    self._solve(block)
            return
        try:
            self._watch(todo, alone=False)
        except calibrate.PaddingUnknownError:
            self._watch(todo, alone=True)

    def _done(self, block: str) -> bool:
        if self.options is not None:
            return self.store.finished(block)
        return all(self.store.has_solution(site) for site in self.store.at[block])

    def _watch(self, todo: Sequence[str], alone: bool) -> None:
        store = self.store
        first, rest = (store.together.share(part) if part else [] for part in self._batches(alone))
        names = [target.name for block in todo for site in store.at[block] for target in site.targets]
        to_the_end = self.two_sided or OUTSIDE in todo
        last = len(store.order) if to_the_end else 1 + max(store.order.index(block) for block in todo)

        def finished(complete: calibrate.Finished) -> None:
            block = OUTSIDE if complete.block is None else store.name_of(complete.block)
            if block in todo:
                moments = store.together.sum(complete.moments, *self._expected(block, complete.back))
                if self.two_sided and not complete.back:
                    if store.leads:
                        store.inputs.keep(moments)
                else:
                    self._take(block, moments, complete.back)
            complete.moments.clear()

        labels, head = labels_for(store.model, self.metric.labels), sentences.head_of(store.model)
        loss = calibrate.loss_for(labels, self.metric.temperature, head=head)
        with store.clock.of("passes"), checkpoint.Spill(store.work, store.portion.waiting) as spill:
            calibrate.watch_blocks(
                store.model,
                store.blocks[:last],
                names,
                [*first, *rest],
                self.kinds,
                store.track if store.leads else silent,
                loss=loss if self.two_sided else None,
                options=calibrate.BlockOptions(
                    differentiated=len(first),
                    resident=store.resident_block,
                    shelf=spill,
                    finished=finished,
                    to_the_end=to_the_end,
                    adding=partial(store.clock.of, "moments"),
                ),
            )

    def _take(self, block: str, moments: dict[str, Moment], back: bool) -> None:
        """Have a block's moments, all that it takes, in memory while it is solved."""
        store = self.store
        if not back:
            shared = {name: moments.pop(name) for name in list(moments) if self._later(name, block)}
            store.inputs.lasting |= shared
            if self.options is None and store.leads:
                store.inputs.keep(shared)
        store.inputs.live, store.gradients.live = ({}, moments) if back else (moments, {})
        self.bench.forget_sides()
        self._solve(block)
        self.bench.forget_sides()

    def _batches(self, alone: bool) -> tuple[list[text.Batch], list[text.Batch]]:
        """What is differentiated, and the rest."""
        store = self.store
        windows = store.divided.calibrating
        asked = set(spread(len(windows), store.divided.gradient_windows)) if self.two_sided else set()
        first = [window for at, window in enumerate(windows) if at in asked]
        rest = [window for at, window in enumerate(windows) if at not in asked]
        most = 1 if alone else store.portion.batch_tokens
        return self._cut(first, min(most, backward_tokens(store.model))), self._cut(rest, most)

    def _cut(self, windows: Sequence[text.Window], tokens: int) -> list[text.Batch]:
        """Batches of so many tokens at most, and so small that there is one for each process."""
        store = self.store
        share = sum(len(window.ids) for window in windows) // store.together.size
        longest = max((len(window.ids) for window in windows), default=0)
        least = max(1, share - longest) if store.together.size > 1 else tokens
        said = text.answers(store.divided.calibrating)
        return text.batches(store.model, store.tokenizer, windows, min(tokens, least), said)

    def _expected(self, block: str, back: bool) -> tuple[dict[str, int], list[str]]:
        """Which moments a block may have, how wide, and the sums in them."""
        store = self.store
        targets = [target for site in store.at[block] for target in site.targets]
        if back:
            sums = {"gradient": "second", "fisher": "fisher"}
            kinds = [sums[kind] for kind in sorted(self.kinds & calibrate.GRADIENT_KINDS)]
            return {target.name: target.out_features for target in targets}, kinds
        spaces = store.spaces
        widths = {spaces[target.name]: target.in_features for target in targets}
        own = {space: width for space, width in widths.items() if store.piece_of(space) == block}
        return own, sorted(self.kinds & calibrate.INPUT_KINDS)

    def _later(self, space: str, block: str) -> bool:
        """Whether blocks behind this one read the space too."""
        spaces = self.store.spaces
        readers = {self.store.piece_of(name) for name, of in spaces.items() if of == space}
        return readers != {block}

    def _solve(self, block: str) -> None:
        """Cut a block that is in memory with its moments, and write it; or keep its decompositions."""
        store = self.store
        if self.options is not None:
            store.install(self.bench, block, self.options, keep_dense=False)
            return
        if store.leads:
            store.gradients.keep(store.gradients.live)
            store.inputs.keep(store.inputs.live)
        with store.clock.of("solve"):
            for site in store.together.mine(store.at[block]):
                store.keep_solution(self.bench, site)
            store.together.wait()
