"""Forward passes that wait for each other: all of them in front of one block, then all in front of the next.

Each batch has a pass, and each pass a thread, of which one runs at a time. A pass runs the model's own code
until that calls a block. There it waits, until it is handed what the block gives. So whatever a model does
around its blocks is done by the model, and a block's weights are needed once for all batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from eckart.linalg import wide_products
from eckart.types import EckartError


class NotWalkableError(EckartError):
    """The blocks of this model cannot be run one at a time."""


@dataclass
class Call:
    """A pass in front of a block, with what it hands over."""

    block: nn.Module
    positional: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def tensors(self) -> list[Tensor]:
        """Those that it hands over, each once."""
        found: list[Tensor] = []
        mapped(
            (self.positional, self.named),
            lambda value: found.append(value) if isinstance(value, Tensor) else None,
        )
        return list({id(value): value for value in found}.values())

    def each(self, do: Callable[[Tensor], None]) -> None:
        """Do something with every tensor."""
        for value in self.tensors:
            do(value)


class Shelf(Protocol):
    """Where activations wait that nobody needs at the moment."""

    def away(self, tensor: Tensor) -> None: ...

    def back(self, tensor: Tensor) -> None: ...


class Passes:
    """A pass for each of `runs`, all in front of one block.

    Args:
        blocks: the modules in front of which a pass waits. They may be called in any order, each any number
            of times, but by all passes alike.
        runs: one for each batch: runs the model on it and returns what is wanted.

    Attributes:
        calls: by the index of the run, all of the same block; empty when the passes have ended.
        outcomes: what runs returned, by their index, once they have ended.

    Raises:
        NotWalkableError: the passes do not call the same blocks.
    """

    def __init__(self, blocks: Sequence[nn.Module], runs: Sequence[Callable[[], Any]]) -> None:
        self._doors = [_Door.of(block) for block in blocks]
        self._passes = {index: _Pass(run) for index, run in enumerate(runs)}
        self.outcomes: dict[int, Any] = {}
        self.calls: dict[int, Call] = {}
        try:
            self._see({index: each.advance() for index, each in self._passes.items()})
        except BaseException:
            self.close()
            raise

    @property
    def block(self) -> nn.Module | None:
        """The one in front of which all wait; `None` at the end."""
        return next(iter(self.calls.values())).block if self.calls else None

    def path(self) -> Iterator[nn.Module]:
        """The blocks that are still to come, as long as somebody steps from one to the next."""
        while (block := self.block) is not None:
            yield block

    def answer(self, index: int) -> Any:
        """What the block gives in the pass of this index, which goes on waiting."""
        call = self.calls[index]
        return _door_of(call.block).run(*call.positional, **call.named)

    def step(self, answers: Callable[[int], Any]) -> None:
        """Hand every pass what the block gives, `answers(index)`, asked one after another, and go on.

        Raises:
            NotWalkableError: the passes do not call the same block next.
        """
        self._see({index: each.advance(answers(index)) for index, each in self._passes.items()})

    def dismiss(self, indices: Sequence[int]) -> None:
        """End these where they are."""
        for index in indices:
            self._passes.pop(index).cancel()
            self.calls.pop(index, None)

    def close(self) -> None:
        """End what still waits, and take the doors away. Again does nothing."""
        self.dismiss(list(self._passes))
        for door in self._doors:
            door.leave()
        self._doors = []

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _see(self, calls: dict[int, Call | None]) -> None:
        waiting = {index: call for index, call in calls.items() if call is not None}
        if len({id(call.block) for call in waiting.values()}) > 1 or len(waiting) not in (0, len(calls)):
            raise NotWalkableError("which blocks this model runs depends on what it reads")
        self.calls = waiting
        if not waiting:
            self.outcomes = {index: each.outcome for index, each in self._passes.items()}
            self.close()


class _Pass(threading.Thread):
    """One forward pass. Either it runs or its owner does, never both."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._run, self._turn, self._came = run, threading.Semaphore(0), threading.Semaphore(0)
        self._call: Call | None = None
        self._given: Any = None
        self._cancelled = False
        self.outcome: Any = None
        self._error: BaseException | None = None

    def advance(self, given: Any = None) -> Call | None:
        """Run until the next block, from the one that gave this; `None` at the end."""
        self._given = given
        if self.ident is None:
            self.start()
        else:
            self._turn.release()
        self._came.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        call, self._call = self._call, None
        return call

    def wait(self, call: Call) -> Any:
        """Within the pass: hand over a call and wait for what it gives."""
        self._call = call
        self._came.release()
        self._turn.acquire()
        if self._cancelled:
            raise _CancelledError
        given, self._given = self._given, None
        return given

    def cancel(self) -> None:
        if self.ident is not None and self.is_alive():
            self._cancelled = True
            self._turn.release()
            self.join()

    def run(self) -> None:
        try:
            self.outcome = self._run()
        except _CancelledError:
            pass
        except BaseException as error:  # it is raised again where somebody waits for it
            self._error = error
        finally:
            self._came.release()


class _CancelledError(Exception):
    """Ends a pass that nobody waits for any more."""


class _Door:
    """In the place of a block's `forward`: a pass waits here, everybody else goes through.

    Several `Passes` may share one; it goes with the last of them.
    """

    def __init__(self, block: nn.Module) -> None:
        self.block, self.users = block, 0
        self.own = block.__dict__.get("forward")
        self._forward: Callable[..., Any] = block.forward

    @classmethod
    def of(cls, block: nn.Module) -> _Door:
        door = block.__dict__.get("forward")
        if not isinstance(door, _Door):
            door = cls(block)
            block.forward = door
        door.users += 1
        return door

    def leave(self) -> None:
        self.users -= 1
        if self.users:
            return
        if self.own is None:
            del self.block.__dict__["forward"]
        else:
            self.block.forward = self.own

    def __call__(self, *positional: Any, **named: Any) -> Any:
        thread = threading.current_thread()
        if isinstance(thread, _Pass):
            return thread.wait(Call(self.block, positional, named))
        return self.run(*positional, **named)

    def run(self, *positional: Any, **named: Any) -> Any:
        """What the block gives."""
        with wide_products():
            return self._forward(*positional, **named)


def _door_of(block: nn.Module) -> _Door:
    door = block.__dict__["forward"]
    assert isinstance(door, _Door)
    return door


def mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A call's arguments, or what a block gives, with every leaf changed; containers are made anew."""
    if isinstance(tree, Mapping):
        made = {key: mapped(value, change) for key, value in tree.items()}
        return made if type(tree) is dict else _like(tree, made)
    if isinstance(tree, (tuple, list)):
        parts = [mapped(value, change) for value in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else type(tree)(parts)
    return change(tree)


def _like(tree: Any, made: dict[Any, Any]) -> Any:
    """A mapping of another class, as transformers' outputs are."""
    return type(tree)(**made)


def floats(tree: Any) -> list[Tensor]:
    """The floating-point tensors in what a block gives, in their order."""
    found: list[Tensor] = []
    mapped(
        tree,
        lambda value: (
            found.append(value) if isinstance(value, Tensor) and value.is_floating_point() else None
        ),
    )
    return found
