"""What every block reads and what a loss says back to it, and each block solved as soon as that is known."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from eckart import calibrate, checkpoint, recipes
from eckart.calibrate.observing import BACKWARD_TOKENS, labels_for, spread
from eckart.compression.bench import Ranks
from eckart.compression.blockwise.bench import SPECTRA
from eckart.compression.blockwise.course import OUTSIDE, Course
from eckart.model import text
from eckart.types import silent


class Look:
    """Goes through a model once, forward and where gradients are wanted back.

    Args:
        ranks: where they are known already: then each block is cut and written at once. Else its
            decompositions are kept.
    """

    def __init__(self, course: Course, ranks: Ranks | None) -> None:
        self.course, self.ranks = course, ranks
        self.metric = recipes.find_metric(course.recipe.metric)
        self.kinds = self.metric.moments or frozenset({"absolute"})
        self.two_sided = bool(self.kinds & calibrate.GRADIENT_KINDS)

    def run(self) -> None:
        """Do it, for blocks that are not done."""
        course = self.course
        todo = [block for block in course.with_targets() if not self._done(block)]
        # All have looked before one writes.
        course.together.wait()
        if not todo:
            return
        if not course.divided.calibrating:
            for block in course.track(todo, "decomposing", len(todo)):
                with course.resident(block):
                    self._solve(block)
            return
        try:
            self._watch(todo, alone=False)
        except calibrate.PaddingUnknownError:
            self._watch(todo, alone=True)

    def _done(self, block: str) -> bool:
        course = self.course
        if self.ranks is not None:
            return course.written(block)
        return all(course.units.has(SPECTRA, target.name) for target in course.at[block])

    def _watch(self, todo: Sequence[str], alone: bool) -> None:
        course, bench = self.course, self.course.bench
        first, rest = (course.together.share(part) if part else [] for part in self._batches(alone))
        names = [target.name for block in todo for target in course.at[block]]
        to_the_end = self.two_sided or OUTSIDE in todo
        last = len(course.order) if to_the_end else 1 + max(course.order.index(block) for block in todo)

        def finished(complete: calibrate.Finished) -> None:
            block = OUTSIDE if complete.block is None else course.streamed.name_of(complete.block)
            if block in todo:
                moments = course.together.sum(complete.moments, *self._expected(block, complete.back))
                if self.two_sided and not complete.back:
                    if course.together.leads:
                        bench.inputs.keep(moments)
                else:
                    if not complete.back:
                        shared = {
                            name: moments.pop(name) for name in list(moments) if self._later(name, block)
                        }
                        bench.inputs.lasting |= shared
                        if self.ranks is None and course.together.leads:
                            bench.inputs.keep(shared)
                    bench.take(*(({}, moments) if complete.back else (moments, {})))
                    self._solve(block)
                    bench.done()
            complete.moments.clear()

        loss = calibrate.loss_for(labels_for(course.model, self.metric.labels), self.metric.temperature)
        with course.clock.of("passes"), checkpoint.Spill(course.work, course.portion.waiting) as spill:
            calibrate.watch_blocks(
                course.model,
                course.blocks[:last],
                names,
                [*first, *rest],
                self.kinds,
                course.track if course.together.leads else silent,
                loss=loss if self.two_sided else None,
                options=calibrate.BlockOptions(
                    differentiated=len(first),
                    resident=course.brought,
                    shelf=spill,
                    finished=finished,
                    to_the_end=to_the_end,
                    adding=partial(course.clock.of, "moments"),
                ),
            )

    def _batches(self, alone: bool) -> tuple[list[text.Batch], list[text.Batch]]:
        """What is differentiated, and the rest."""
        course = self.course
        windows = course.divided.calibrating
        asked = set(spread(len(windows), course.divided.gradient_windows)) if self.two_sided else set()
        first = [window for at, window in enumerate(windows) if at in asked]
        rest = [window for at, window in enumerate(windows) if at not in asked]
        most = 1 if alone else course.portion.batch_tokens
        return self._cut(first, min(most, BACKWARD_TOKENS)), self._cut(rest, most)

    def _cut(self, windows: Sequence[text.Window], tokens: int) -> list[text.Batch]:
        """Batches of so many tokens at most, and so small that there is one for each process."""
        course = self.course
        share = sum(len(window.ids) for window in windows) // course.together.size
        longest = max((len(window.ids) for window in windows), default=0)
        least = max(1, share - longest) if course.together.size > 1 else tokens
        return text.batches(course.model, course.tokenizer, windows, min(tokens, least))

    def _expected(self, block: str, back: bool) -> tuple[dict[str, int], list[str]]:
        """Which moments a block may have, how wide, and the sums in them."""
        course = self.course
        targets = course.at[block]
        if back:
            sums = {"gradient": "second", "fisher": "fisher"}
            kinds = [sums[kind] for kind in sorted(self.kinds & calibrate.GRADIENT_KINDS)]
            return {target.name: target.out_features for target in targets}, kinds
        spaces = course.bench.spaces
        widths = {spaces[target.name]: target.in_features for target in targets}
        own = {space: width for space, width in widths.items() if course.home(space) == block}
        return own, sorted(self.kinds & calibrate.INPUT_KINDS)

    def _later(self, space: str, block: str) -> bool:
        """Whether blocks behind this one read the space too."""
        readers = {self.course.home(name) for name, of in self.course.bench.spaces.items() if of == space}
        return readers != {block}

    def _solve(self, block: str) -> None:
        """Cut a block that is in memory with its moments, and write it; or keep its decompositions."""
        course, bench = self.course, self.course.bench
        if self.ranks is not None:
            course.cut_together(block, self.ranks)
            return
        if course.together.leads:
            bench.gradients.keep(bench.gradients.live)
            bench.inputs.keep(bench.inputs.live)
        with course.clock.of("solve"):
            for target in course.together.mine(course.at[block]):
                bench.solve(target)
            course.together.wait()
