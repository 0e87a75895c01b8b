"""What targets read, and what a loss says back to them, with one block of the model in memory at a time.

The same sums as `watch`, from the same arithmetic, in another order: a block sees all batches before the
next block sees any. On the way forward every block's inputs are kept. On the way back each block runs again
from them, last block first, and hands the gradient on: exact, as gradient checkpointing is (Chen et al. 2016,
arXiv 1604.06174).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, frozen, uncached
from eckart.calibrate.observed import GRADIENT_KINDS, INPUT_KINDS, Observed
from eckart.calibrate.passes import Call, NotWalkableError, Passes, Shelf, floats, mapped
from eckart.calibrate.rows import Batch, first_tokens, masks_of, module_input
from eckart.calibrate.sums import InputSum, OutputSum, mirror
from eckart.calibrate.watch import Loss, loss_of, run_on
from eckart.linalg import wide_products
from eckart.types import Moment, Track, silent

Resident = Callable[[nn.Module], AbstractContextManager[Any]]
"""Brings the weights of a block into memory, for as long as it lasts."""


@dataclass
class Finished:
    """Sums that are complete, of the targets of one block, which is still in memory.

    Attributes:
        block: `None` for targets outside of all blocks.
        back: whether these are the gradients', on the way back.
        moments: of inputs by space, or of gradients by target. What is taken out is given up.
    """

    block: nn.Module | None
    back: bool
    moments: dict[str, Moment]


@dataclass
class BlockOptions:
    """How blocks come and go, and who is told of their sums.

    Attributes:
        differentiated: how many of the batches, the first ones, are differentiated; `None` for all.
        resident: brings the weights of a block; default: they are there.
        shelf: where activations wait; default in memory.
        finished: called with sums as soon as they are complete. What it takes out of the moments that it is
            handed is out of the answer, too: so they need not all be in memory.
        to_the_end: whether the model runs on behind the last of the blocks, where nothing is differentiated
            and no target is outside of them. If not, a block that is run again is not noticed.
        adding: a context around all that is added to a sum, as to time it.
    """

    differentiated: int | None = None
    resident: Resident = nullcontext
    shelf: Shelf | None = None
    finished: Callable[[Finished], None] = lambda complete: None
    to_the_end: bool = True
    adding: Callable[[], AbstractContextManager[Any]] = nullcontext


def watch_blocks(
    model: Any,
    blocks: Sequence[nn.Module],
    names: Sequence[str],
    batches: Sequence[Batch],
    kinds: frozenset[str],
    track: Track = silent,
    *,
    loss: Loss | None = None,
    options: BlockOptions | None = None,
) -> Observed:
    """As `watch`, block by block.

    Args:
        blocks: whose weights `options.resident` brings; everything else of the model is in memory.

    Raises:
        NotWalkableError: the model does not run its blocks one after another, each once, for every input.
        EckartError: as `watch`.
    """
    job = _Blockwise(model, blocks, names, batches, kinds, loss, options or BlockOptions())
    with torch.inference_mode(False), evaluating(model), uncached(model), frozen(model):
        return job.run(track)


@dataclass
class _Record:
    """A block that a batch went through: what it read, and what it gave."""

    call: Call
    given: list[Tensor]


class _Blockwise:
    def __init__(
        self,
        model: Any,
        blocks: Sequence[nn.Module],
        names: Sequence[str],
        batches: Sequence[Batch],
        kinds: frozenset[str],
        loss: Loss | None,
        options: BlockOptions,
    ) -> None:
        self.options, self.shelf = options, options.shelf
        differentiated = len(batches) if options.differentiated is None else options.differentiated
        self.model, self.blocks, self.kinds = model, list(blocks), kinds
        self.loss = loss if kinds & GRADIENT_KINDS else None
        self.batches = list(batches)
        self.differentiated = differentiated if self.loss else 0
        self.home = {name: self._home(model, name) for name in names}
        self.at: int | None = None
        self.again = False
        self.tokens = 0
        self.spaces: dict[str, str] = {}
        self.leaders: dict[tuple[int, int], str] = {}
        self.first_inputs: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}
        self.inputs = {name: InputSum(name, kinds) for name in names} if kinds & INPUT_KINDS else {}
        self.outputs = {name: OutputSum(name, kinds) for name in names} if self.loss else {}
        self.steps: list[tuple[nn.Module, list[_Record]]] = []
        self.first_seen: list[dict[int, tuple[Tensor, int]]] = [{} for _ in range(self.differentiated)]
        self.kept: tuple[dict[str, Moment], dict[str, Moment]] = {}, {}
        self.observed = Observed(self.spaces, self.kept[0], 0, self.kept[1], kinds)

    def _home(self, model: Any, name: str) -> int | None:
        """Which block a target is in, by identity; `None` outside."""
        inside = {id(block) for block in self.blocks}
        parts = name.split(".")
        for depth in range(len(parts), 0, -1):
            module = model.get_submodule(".".join(parts[:depth]))
            if id(module) in inside:
                return id(module)
        return None

    def run(self, track: Track) -> Observed:
        with self._hooked(), ExitStack() as stack:
            passes = Passes(
                self.blocks,
                [self._first_tokens, *(partial(self._pass, at) for at in range(len(self.batches)))],
            )
            stack.callback(passes.close)
            self._forward(passes, track)
            del passes
            self._complete(None, backward=False)
            if self.loss:
                self._backward(track)
                self._complete(None, backward=True)
        self.observed.tokens = self.tokens
        self.observed.spaces = {name: self.spaces[name] for name in self.home}
        return self.observed

    def _first_tokens(self) -> None:
        """A few tokens ahead of all batches: which modules are handed the very same tensor."""
        self._turn(None)
        with torch.no_grad():
            run_on(self.model, first_tokens(self.batches[0]))

    def _pass(self, at: int) -> None:
        batch = self.batches[at]
        self._turn(at)
        self.tokens += sum(int(mask.sum()) for mask in self.masks)
        if at >= self.differentiated:
            with torch.no_grad():
                run_on(self.model, batch)
            return
        assert self.loss is not None
        total = loss_of(self.model, batch, self.loss, at + 1, self._check)
        if total.requires_grad:
            total.backward(retain_graph=True)
        self._finish_batch(None)

    def _turn(self, at: int | None) -> None:
        """From here on it is this batch that runs; `None` for the first few tokens."""
        if at is not None and len(self.first_inputs) > len(self.spaces):
            # A space is named after the first of its targets in the model's order, not in that of the calls.
            for name in self.home:
                if name in self.first_inputs and name not in self.spaces:
                    key = id(self.first_inputs[name]), self.versions[name]
                    self.spaces[name] = self.leaders.setdefault(key, name)
        self.at = at
        self.masks = [] if at is None else masks_of(self.batches[at])
        for each in self._sums():
            each.masks = self.masks

    # forward

    def _forward(self, passes: Passes, track: Track) -> None:
        seen: set[int] = set()
        for block in track(passes.path(), "calibrating", len(self.blocks)):
            if id(block) in seen:
                raise NotWalkableError("this model runs a block more than once")
            seen.add(id(block))
            if self.differentiated:
                self.steps.append((block, []))
            with self.options.resident(block):
                if len(seen) == len(self.blocks) and None not in self.home.values():
                    self._finish(passes)
                else:
                    passes.step(partial(self._answer, passes))
                self._complete(block, backward=False)
            if self.shelf:
                for index, call in passes.calls.items():
                    if index:
                        call.each(self.shelf.away)

    def _finish(self, passes: Passes) -> None:
        """The last block; behind it only those go on that are differentiated: logits are large.

        And the pass of the first tokens, which would come upon a block once more.
        """
        on = range(self.differentiated + 1)
        self._answer(passes, 0)
        for index in [index for index in passes.calls if index not in on]:
            self._answer(passes, index)
            passes.dismiss([index])
        if self.differentiated or self.options.to_the_end:
            passes.step(partial(self._answer, passes))
        else:
            passes.close()

    def _answer(self, passes: Passes, index: int) -> Any:
        """What the block gives one pass; that of the first tokens is the first."""
        at = index - 1 if index else None
        self._turn(at)
        call = passes.calls[index]
        if self.shelf:
            call.each(self.shelf.back)
        with torch.no_grad():
            answer = passes.answer(index)
        if at is None or at >= self.differentiated:
            return answer
        given: list[Tensor] = []

        def leaf(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.is_floating_point()):
                return value
            given.append(_own(value).requires_grad_())
            return given[-1]

        answer = mapped(answer, leaf)
        self._remember(at, call)
        self.steps[-1][1].append(_Record(call, given))
        if self.shelf:
            call.each(self.shelf.away)
        return answer

    def _remember(self, at: int, call: Call) -> None:
        """When a pass first handed over what code around the blocks made of what they gave."""
        for value in call.tensors:
            if value.requires_grad and not value.is_leaf:
                self.first_seen[at].setdefault(id(value), (value, len(self.steps) - 1))

    # back

    def _backward(self, track: Track) -> None:
        waiting: list[dict[int, Tensor]] = [{} for _ in range(self.differentiated)]
        # In front of the first block with a target there is nothing to go back for.
        targeted = [at for at, (block, _) in enumerate(self.steps) if id(block) in self.home.values()]
        todo = range(len(self.steps) - 1, min(targeted, default=len(self.steps)) - 1, -1)
        for step in track(todo, "differentiating", len(todo)):
            block, records = self.steps[step]
            with self.options.resident(block):
                for at, record in enumerate(records):
                    self._turn(at)
                    self._through(block, record, waiting[at])
                    self._finish_batch(id(block))
                    self._around(at, step, waiting[at])
                self._complete(block, backward=True)
            records.clear()

    def _through(self, block: nn.Module, record: _Record, waiting: dict[int, Tensor]) -> None:
        """One batch back through one block, from what it read."""
        if all(each.grad is None for each in record.given):
            return
        if self.shelf:
            record.call.each(self.shelf.back)
        pairs: list[tuple[Tensor, Tensor]] = []

        def fresh(value: Any) -> Any:
            if not (isinstance(value, Tensor) and value.requires_grad):
                return value
            pairs.append((value, value.detach().requires_grad_()))
            return pairs[-1][1]

        positional, named = mapped(record.call.positional, fresh), mapped(record.call.named, fresh)
        self.again = True
        with torch.enable_grad(), wide_products():
            again = floats(block.forward(*positional, **named))
        self.again = False
        todo = [
            (tensor, each.grad)
            for tensor, each in zip(again, record.given, strict=True)
            if each.grad is not None and tensor.requires_grad
        ]
        if todo:
            torch.autograd.backward(*map(list, zip(*todo, strict=True)))  # type: ignore[arg-type]
        for original, copy in pairs:
            if copy.grad is None:
                continue
            if original.is_leaf:
                original.grad = copy.grad if original.grad is None else original.grad + copy.grad
            else:
                known = waiting.get(id(original))
                waiting[id(original)] = copy.grad if known is None else known + copy.grad

    def _around(self, at: int, step: int, waiting: dict[int, Tensor]) -> None:
        """Back through the code in front of a block, once no later block can add to its gradient."""
        for key, (tensor, first) in list(self.first_seen[at].items()):
            if first == step and key in waiting:
                tensor.backward(waiting.pop(key), retain_graph=True)
        self._finish_batch(None)

    def _finish_batch(self, home: int | None) -> None:
        for name, written in self.outputs.items():
            if self.home[name] == home:
                written.finish_batch()

    # sums

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for name in self.home:
                module = self.model.get_submodule(name)
                hooks.callback(
                    module.register_forward_pre_hook(partial(self._read, name), with_kwargs=True).remove
                )
                if name in self.outputs:
                    hooks.callback(
                        module.register_forward_hook(partial(self._written, name), with_kwargs=True).remove
                    )
            yield

    def _read(self, name: str, module: nn.Module, positional: Any, named: Any) -> None:
        if self.at is None:
            x = module_input(positional, named)
            self.first_inputs[name] = x
            self.versions[name] = x._version
        elif self.inputs and self.spaces.get(name) == name and not self.again:
            with self.options.adding():
                self.inputs[name](module, positional, named)

    def _written(self, name: str, module: nn.Module, positional: Any, named: Any, y: Tensor) -> Tensor | None:
        if self.at is None or self.at >= self.differentiated or not torch.is_grad_enabled():
            return None
        return self.outputs[name](module, positional, named, y)

    def _complete(self, block: nn.Module | None, *, backward: bool) -> None:
        """Hand on the sums of a block that all batches have gone through."""
        home = None if block is None else id(block)
        sums: dict[str, Any] = self.outputs if backward else self.inputs
        there = [name for name, at in self.home.items() if at == home and name in sums]
        for name in reversed(there) if backward else there:
            sums[name].check()
        made = {name: sums.pop(name).moment for name in there}
        made = {name: moment for name, moment in made.items() if moment.tokens}
        for moment in made.values():
            mirror(moment)
        self.options.finished(Finished(block, backward, made))
        self.kept[backward].update(made)

    def _check(self) -> None:
        for each in self._sums():
            each.check()

    def _sums(self) -> list[InputSum | OutputSum]:
        return [*self.inputs.values(), *self.outputs.values()]


def _own(value: Tensor) -> Tensor:
    """The same numbers in a storage of their own, with no history."""
    whole = value.untyped_storage().nbytes() == value.numel() * value.element_size()
    return value.detach() if whole and value.is_contiguous() else value.detach().clone()
