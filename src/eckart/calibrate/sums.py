"""Hooks that add what they see to a moment: float32 products of a batch, summed in float64 over batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from eckart.calibrate import modes
from eckart.calibrate.rows import module_input, real_tokens, widened, windows_of
from eckart.linalg import products_of
from eckart.types import EckartError, Moment

WIDE = 512**2
"""Entries of a sum above which it is in float32: together they are the largest there is in memory."""
LEAST_WIDTH = 256
"""Of a half that is worth a product of its own."""


class InputSum:
    """A forward pre-hook that adds its module's input to a moment."""

    def __init__(self, space: str, kinds: frozenset[str]) -> None:
        self.space = space
        self.kinds = kinds
        self.masks: list[Tensor] = []
        self.moment = Moment(tokens=0)

    def __call__(self, module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        if modes.again():
            return
        rows = real_tokens(module_input(positional, named).detach(), self.masks, self.space)
        x = widened(rows)
        moment = self.moment
        moment.tokens += len(x)
        if "second" in self.kinds:
            with products_of(rows.dtype):
                moment.second = _added(moment.second, _gram(x))
        if "absolute" in self.kinds:
            moment.absolute = _added(moment.absolute, x.abs().sum(0, dtype=torch.float64))

    def check(self) -> None:
        """Raises EckartError where what was summed is not finite."""
        if not _finite(self.moment):
            raise EckartError(
                f"while calibrating, {self.space} read values that are not finite: "
                "the model overflows on this data; try another dtype"
            )


class OutputSum:
    """A forward hook that adds the gradients at its module's output to a moment, in the backward pass.

    The first watched outputs are where the backward pass ends: nothing before them is differentiated, and
    no embedding has to be found.

    A module may be called several times in one forward pass (shared layers). Its weight's gradient in a
    window is then the sum over the calls, and only that is squared.
    """

    def __init__(self, name: str, kinds: frozenset[str]) -> None:
        self.name = name
        self.kinds = kinds
        self.masks: list[Tensor] = []
        self.moment = Moment(tokens=0)
        self.calls = 0
        self.arrived: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor], y: Tensor
    ) -> Tensor:
        if not y.requires_grad:
            # A copy, since a model may change in place what it gets, and a leaf does not bear that.
            y = y.detach().requires_grad_().clone()
        if y.requires_grad and not modes.again():
            self.calls += 1
            x = module_input(positional, named).detach() if "fisher" in self.kinds else None
            y.register_hook(partial(self._add, x))
        return y

    def _add(self, x: Tensor | None, g: Tensor) -> None:
        rows = real_tokens(g.detach(), self.masks, self.name)
        real = widened(rows)
        moment = self.moment
        moment.tokens += len(real)
        if "gradient" in self.kinds:
            with products_of(rows.dtype):
                moment.second = _added(moment.second, _gram(real))
        if x is not None:
            self.arrived.append((x, g.detach()))
            if len(self.arrived) == self.calls:
                self._add_fisher()

    def _add_fisher(self) -> None:
        """Square the weight's gradient in each window, from inputs and gradients of all calls."""
        whole: list[list[tuple[Tensor, Tensor]]] = []
        for x, g in self.arrived:
            xs, gs = windows_of(x, self.masks), windows_of(g, self.masks)
            if xs is None or gs is None:
                real_x, real_g = (widened(real_tokens(one, self.masks, self.name)) for one in (x, g))
                rows = real_g.square() * real_x.square().sum(1, keepdim=True)
                self._square(rows.sum(0, dtype=torch.float64), len(rows))
            else:
                whole.append(list(zip(xs, gs, strict=True)))
        for window in zip(*whole, strict=True):
            x, g = (widened(torch.cat(parts)) for parts in zip(*window, strict=True))
            self._square((g.T @ x).square().sum(1, dtype=torch.float64), 1)
        self.arrived.clear()

    def _square(self, rows: Tensor, windows: int) -> None:
        self.moment.fisher = _added(self.moment.fisher, rows)
        self.moment.windows += windows

    def finish_batch(self) -> None:
        """What is left of calls whose fellows got no gradient."""
        if self.arrived:
            self._add_fisher()
        self.calls = 0

    def check(self) -> None:
        """Raises EckartError where what was summed is not finite."""
        if not _finite(self.moment):
            raise EckartError(
                f"while calibrating, the gradient at the output of {self.name} is not finite: "
                "the backward pass overflows on this data; try another dtype"
            )


def _gram(x: Tensor) -> Tensor:
    """`xᵀ x`, `(width, width)`: mirrored halves are multiplied once, for which torch has no call."""
    width = x.shape[1]
    if width < 2 * LEAST_WIDTH:
        return x.T @ x
    middle = width // 2
    first, second = x[:, :middle], x[:, middle:]
    gram = x.new_empty(width, width)
    gram[:middle, :middle], gram[middle:, middle:] = _gram(first), _gram(second)
    gram[:middle, middle:] = first.T @ second
    gram[middle:, :middle] = gram[:middle, middle:].T
    return gram


def mirror(moment: Moment) -> None:
    """Make `second` symmetric to the last bit, as a product in blocks is not: half of it says it all."""
    if moment.second is not None:
        upper = moment.second.triu_()
        upper.add_(upper.triu(1).T)


def _added(total: Tensor | None, more: Tensor) -> Tensor:
    if total is not None:
        # Float32 is widened as it is added: a sum may be as large as all else in memory.
        return total.add_(more)
    return more.to(dtype_of(more.shape))


def dtype_of(shape: Sequence[int]) -> torch.dtype:
    """Of a sum: what is added has float32's precision, and of the large ones the sum has no more."""
    return torch.float32 if math.prod(shape) > WIDE else torch.float64


def _finite(moment: Moment) -> bool:
    sums = (moment.second, moment.absolute, moment.fisher)
    return all(bool(torch.isfinite(one).all()) for one in sums if one is not None)
