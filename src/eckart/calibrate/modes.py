"""A model in the mode that watching it needs, and afterwards in its own again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from eckart.linalg import wide_products

ACTIVATIONS = 18
"""Numbers of its width that a block of usual proportions hands from module to module, for each token."""
WAITING_BYTES = 2**29
"""Of activations waiting for the way back, above which blocks are run again: a third more time."""

_AGAIN: ContextVar[bool] = ContextVar("again", default=False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode: dropout is no part of what a model reads."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """No parameter asks for a gradient."""
    asking = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def uncached(model: nn.Module) -> Iterator[None]:
    """Keys and values are not kept for a next token: of a large batch in all blocks they are large.

    And a block that is run again would read those of the first run too.
    """
    # A part may have a config of its own, as T5's decoder has.
    configs = {id(part.config): part.config for part in model.modules() if hasattr(part, "config")}
    before = [(config, config.use_cache) for config in configs.values() if hasattr(config, "use_cache")]
    for config, _ in before:
        config.use_cache = False
    try:
        yield
    finally:
        for config, value in before:
            config.use_cache = value


def waiting_bytes(config: Any, item: int) -> int:
    """What a model's blocks have wait for the way back, for each token, in bytes.

    Args:
        config: of the model; by it alone, so that it is the same whatever was replaced already.
        item: bytes of a number.
    """
    text = config.get_text_config()
    layers, width = (getattr(text, name, None) or 0 for name in ("num_hidden_layers", "hidden_size"))
    return int(item * layers * ACTIVATIONS * width)


def recomputing(model: Any, blocks: Sequence[nn.Module], tokens: int) -> AbstractContextManager[None]:
    """Meanwhile these blocks are run again for the way back, where otherwise much would wait for it.

    A block then keeps what it was handed, and no more (Chen et al., "Training deep nets with sublinear memory
    cost", 2016). What comes out is the same to the last bit. Hooks in a block are called again, too: `again`
    tells them.

    Args:
        tokens: that go through the model at once.
    """
    if blocks and tokens * waiting_bytes(model.config, max(4, model.dtype.itemsize)) > WAITING_BYTES:
        return _recomputing(blocks)
    return nullcontext()


def again() -> bool:
    """Whether what runs now has run before, and is run for the way back."""
    return _AGAIN.get()


@contextmanager
def _recomputing(blocks: Sequence[nn.Module]) -> Iterator[None]:
    with ExitStack() as stack:
        for block in blocks:
            own = block.__dict__.get("forward")
            block.__dict__["forward"] = partial(_run, block.forward)
            stack.callback(_give_back, block, own)
        yield


def _give_back(block: nn.Module, own: Callable[..., Any] | None) -> None:
    if own is None:
        del block.__dict__["forward"]
    else:
        block.__dict__["forward"] = own


def _run(forward: Callable[..., Any], *positional: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*positional, **named)
    return checkpoint(
        forward,
        *positional,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _a_second_time()),
        **named,
    )


@contextmanager
def _a_second_time() -> Iterator[None]:
    before = _AGAIN.set(True)
    try:
        # Whoever went forward has left this by now, or is in another thread.
        with wide_products():
            yield
    finally:
        _AGAIN.reset(before)
