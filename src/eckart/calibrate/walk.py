"""A model one block at a time: every batch waits in front of the same block.

So a block can be run again and again, up to one of its modules, without the blocks before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, uncached
from eckart.calibrate.passes import NotWalkableError, Passes, Shelf
from eckart.calibrate.rows import (
    Batch,
    PaddingUnknownError,
    first_tokens,
    masks_of,
    module_input,
    real_tokens,
)
from eckart.calibrate.watch import run_on


class Walk:
    """All batches in front of one block of a model, and then of the next.

    The model is in evaluation mode whenever it runs, and no gradient is kept. The blocks themselves are the
    model's own: change their weights and the walk goes on with the changed ones. Whoever holds a walk closes
    it, or uses it as a context.

    Args:
        blocks: where to halt.
        batches: keyword arguments of the model.
        shelf: where activations wait; default in memory.

        give: what is wanted of the model's output for a batch, `give(index, output)`. Without it the model is
            run no further than its last block.

    Attributes:
        given: that, by the batch's index, once all are through.

    Raises:
        NotWalkableError: the model does not run the same blocks for all batches, each once.
    """

    def __init__(
        self,
        model: Any,
        blocks: Sequence[nn.Module],
        batches: Sequence[Batch],
        *,
        shelf: Shelf | None = None,
        give: Callable[[int, Any], Any] | None = None,
    ) -> None:
        self.model, self.batches, self.shelf, self._give = model, batches, shelf, give
        self._seen: set[int] = set()
        self.length = len(blocks)
        with self._running():
            self._passes = Passes(blocks, [partial(self._whole, index) for index in range(len(batches))])
        self._arrived()

    @property
    def block(self) -> nn.Module | None:
        """The one in front of which all batches are; `None` at the end."""
        return self._passes.block

    @property
    def given(self) -> dict[int, Any]:
        return self._passes.outcomes

    def path(self) -> Iterator[nn.Module]:
        """The blocks that are still to come, as long as somebody steps from one to the next."""
        return self._passes.path()

    def inputs(self, names: Sequence[str], use: Callable[[int, str, Tensor | None], None]) -> list[str]:
        """Run the block on every batch, and stop after the last of `names` was called.

        Args:
            names: modules of the block.
            use: called with the batch's index, the module's name and what it read, `(tokens, in)`, padding
                excluded; `None` where that is not one row for each token of the batch, as in an expert
                that is handed some of them.

        Returns:
            The names in the order in which the block called them on the first batch.
        """
        reader = _Reader(names, use)
        hooks = [
            self.model.get_submodule(name).register_forward_pre_hook(partial(reader, name), with_kwargs=True)
            for name in names
        ]
        try:
            for index, batch in enumerate(self.batches):
                reader.start(index, batch)
                with suppress(_Enough), self._running():
                    self._answer(index)
        finally:
            for hook in hooks:
                hook.remove()
        return reader.order

    def step(self) -> None:
        """Go on to the next block: every batch's hidden states become what this block makes of them."""
        if self._give is None and len(self._seen) == self.length:
            self.close()
            return
        with self._running():
            self._passes.step(self._answer)
        self._arrived()

    def close(self) -> None:
        """Let go of what still waits. Again does nothing."""
        self._passes.close()

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self, index: int) -> Any:
        if self.shelf:
            self._passes.calls[index].each(self.shelf.back)
        return self._passes.answer(index)

    def _arrived(self) -> None:
        if self.block is not None and id(self.block) in self._seen:
            self.close()
            raise NotWalkableError("this model runs a block more than once")
        self._seen.add(id(self.block))
        if self.shelf:
            for call in self._passes.calls.values():
                call.each(self.shelf.away)

    def _whole(self, index: int) -> Any:
        batch = self.batches[index]
        # A pass has a thread of its own, and so its own mode.
        with torch.no_grad():
            output = run_on(self.model, batch)
            return self._give(index, output) if self._give else None

    @contextmanager
    def _running(self) -> Iterator[None]:
        with torch.no_grad(), evaluating(self.model), uncached(self.model):
            yield


def require_walkable(model: Any, blocks: Sequence[nn.Module], batch: Batch) -> None:
    """Run a few tokens through.

    Raises:
        NotWalkableError: the model runs a block more than once.
    """
    with Walk(model, blocks, [first_tokens(batch)], give=lambda index, output: None) as walk:
        for _ in walk.path():
            walk.step()


class _Reader:
    """A forward pre-hook that passes on what modules read, until each has read once."""

    def __init__(self, names: Sequence[str], use: Callable[[int, str, Tensor | None], None]) -> None:
        self.names, self.use = names, use
        self.order: list[str] = []

    def start(self, index: int, batch: Batch) -> None:
        self.index, self.masks, self.left = index, masks_of(batch), set(self.names)

    def __call__(
        self, name: str, module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        try:
            read: Tensor | None = real_tokens(module_input(positional, named), self.masks, name)
        except PaddingUnknownError:
            read = None
        if read is not None and len(read) not in {int(mask.sum()) for mask in self.masks}:
            read = None
        if self.index == 0:
            self.order.append(name)
        self.use(self.index, name, read)
        self.left.discard(name)
        if not self.left:
            raise _Enough


class _Enough(Exception):  # noqa: N818 - not an error: what was wanted has been seen
    """Ends a forward pass early."""
