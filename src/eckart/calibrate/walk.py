"""A stack of blocks, one block at a time, from stored hidden states.

What one block hands to the next is kept for every batch, so that a block can be run again and again, up to
one of its modules, without the blocks before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, uncached
from eckart.calibrate.rows import Batch, PaddingUnknownError, masks_of, module_input, real_tokens
from eckart.types import EckartError

HIDDEN = "hidden_states"
CLOSE = 1e-3
"""A walk is right where it gives what the whole model gave, relative to the largest value."""


class NotWalkableError(EckartError):
    """Something happens between the blocks of this stack, so they cannot be run one at a time."""

    def __init__(self, stack: str) -> None:
        super().__init__(f"the blocks of {stack} pass on more than their hidden states")


class Walk:
    """The hidden states of every batch in front of one block of a stack.

    Made by running the model once, up to its last block of that stack; the model is in evaluation mode
    whenever it runs, and no gradient is kept. The blocks themselves are the model's own: change their
    weights and the walk goes on with the changed ones.

    Args:
        stack: name of a `ModuleList` of blocks that take hidden states first and give them first.
        batches: keyword arguments of the model.

    Raises:
        NotWalkableError: the blocks pass on more than hidden states.
    """

    def __init__(self, model: Any, stack: str, batches: Sequence[Batch]) -> None:
        self.model, self.stack, self.batches = model, stack, batches
        self.blocks = list(model.get_submodule(stack))
        self.at = 0
        self.hidden: list[Tensor] = []
        self.arguments: list[list[tuple[tuple[Any, ...], dict[str, Any]]]] = []
        for batch in batches:
            self._record(batch)

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
                with suppress(_Enough):
                    self._run(index)
        finally:
            for hook in hooks:
                hook.remove()
        return reader.order

    def step(self) -> None:
        """Go on to the next block: every batch's hidden states become what this block makes of them."""
        self.hidden = [self._run(index) for index in range(len(self.batches))]
        self.at += 1

    def _run(self, index: int) -> Tensor:
        positional, named = self.arguments[index][self.at]
        hidden = self.hidden[index]
        if HIDDEN in named:
            named = {**named, HIDDEN: hidden}
        else:
            positional = (hidden, *positional[1:])
        with torch.no_grad(), evaluating(self.model):
            return _first(self.blocks[self.at](*positional, **named))

    def _record(self, batch: Batch) -> None:
        """Keep the first block's hidden states and every block's other arguments; check one walk."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        last = len(self.blocks) - 1
        check, checking = not self.arguments, False

        def see(block: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            nonlocal checking
            if checking:
                return
            hidden = named[HIDDEN] if HIDDEN in named else positional[0]
            if not calls:
                self.hidden.append(hidden)
            elif check and len(calls) <= last:
                checking = True
                self._compare(calls[-1], len(calls) - 1, hidden)
                checking = False
            # Only the first block's hidden states are kept; a check needs this block's until the next.
            calls.append((positional, named) if check else _without_hidden(positional, named))
            # A check sees the model to its end: a stack that is run more than once is no stack.
            if len(calls) > last and not check:
                raise _Enough

        hooks = [block.register_forward_pre_hook(see, with_kwargs=True) for block in self.blocks]
        try:
            with suppress(_Enough), torch.no_grad(), evaluating(self.model), uncached(self.model):
                self.model(
                    **{key: value.to(self.model.device) for key, value in batch.items() if key != "labels"}
                )
        finally:
            for hook in hooks:
                hook.remove()
        if len(calls) != len(self.blocks):
            raise NotWalkableError(self.stack)
        self.arguments.append([_without_hidden(*call) for call in calls])

    def _compare(self, call: tuple[tuple[Any, ...], dict[str, Any]], index: int, expected: Tensor) -> None:
        positional, named = call
        got = _first(self.blocks[index](*positional, **named))
        if got.shape != expected.shape or (got - expected).abs().max() > CLOSE * expected.abs().max():
            raise NotWalkableError(self.stack)


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


def _first(output: Any) -> Tensor:
    """The hidden states in what a block returns: alone, or before other things."""
    hidden: Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _without_hidden(
    positional: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if HIDDEN in named:
        return positional, {**named, HIDDEN: None}
    return (None, *positional[1:]), named
