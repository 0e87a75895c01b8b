"""Moments by forward hooks, one per input space.

Several modules often read the same activation (query, key and value; gate and up; every cross-attention
of a decoder). They form one input space, recognised by identity: in the first batch they are handed the
very same tensor. One hook per space then adds its moment once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eckart.types import EckartError, Moment, Track, silent

Batch = dict[str, Tensor]


class PaddingUnknownError(EckartError):
    """An input's shape fits no mask of a padded batch: run without padding."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} reads its input in a shape that no mask explains, so padding would count: "
            "leave it out with --targets"
        )


@dataclass
class Observed:
    """What was seen.

    Attributes:
        spaces: target name to the name of its input space (its first target's name).
        moments: input space to its sums. A space that no token reached is absent.
        tokens: real tokens in the batches.
    """

    spaces: dict[str, str]
    moments: dict[str, Moment]
    tokens: int


def watch(
    model: Any,
    names: Sequence[str],
    batches: Sequence[Batch],
    kinds: frozenset[str],
    track: Track = silent,
) -> Observed:
    """Run `model` on `batches` and sum what the named modules read, padding excluded.

    It runs in evaluation mode, whatever mode it is in: dropout is no part of what the targets read.

    Args:
        names: modules whose first argument is `(…, in)`.
        batches: keyword arguments of the model, with masks where something is padded.
        kinds: which sums: `second`, `absolute`.

    Raises:
        PaddingUnknownError: a padded batch reached a module in a shape that no mask explains.
        EckartError: a module read something that is not finite.
    """
    with _evaluating(model):
        return _watch(model, names, batches, kinds, track)


def _watch(
    model: Any, names: Sequence[str], batches: Sequence[Batch], kinds: frozenset[str], track: Track
) -> Observed:
    spaces = _spaces(model, names, batches[0])
    sums = {space: _Sum(space, kinds) for space in dict.fromkeys(spaces.values())}
    hooks = [
        model.get_submodule(space).register_forward_pre_hook(sum_, with_kwargs=True)
        for space, sum_ in sums.items()
    ]
    tokens = 0
    try:
        for batch in track(batches, "calibrating", len(batches)):
            masks = _masks(batch)
            for sum_ in sums.values():
                sum_.masks = masks
            tokens += int(sum(int(mask.sum()) for mask in masks)) or batch["input_ids"].numel()
            _run(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for sum_ in sums.values():
        sum_.check()
    moments = {space: sum_.moment for space, sum_ in sums.items() if sum_.moment.tokens}
    return Observed(spaces, moments, tokens)


class _Sum:
    """A forward pre-hook that adds its module's input to a moment."""

    def __init__(self, space: str, kinds: frozenset[str]) -> None:
        self.space = space
        self.kinds = kinds
        self.masks: list[Tensor] = []
        self.moment = Moment(tokens=0)

    def __call__(self, module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        x = _real_tokens(_input(positional, named).detach(), self.masks, self.space)
        moment = self.moment
        moment.tokens += len(x)
        x = x.float()
        # Float32 products of one batch, summed in float64 over batches.
        if "second" in self.kinds:
            second = (x.T @ x).double()
            moment.second = second if moment.second is None else moment.second.add_(second)
        if "absolute" in self.kinds:
            absolute = x.abs().sum(0, dtype=torch.float64)
            moment.absolute = absolute if moment.absolute is None else moment.absolute.add_(absolute)

    def check(self) -> None:
        for total in (self.moment.second, self.moment.absolute):
            if total is not None and not torch.isfinite(total).all():
                raise EckartError(
                    f"while calibrating, {self.space} read values that are not finite: "
                    "the model overflows on this data; try another dtype"
                )


def _input(positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> Tensor:
    return positional[0] if positional else next(iter(named.values()))


def _real_tokens(x: Tensor, masks: list[Tensor], name: str) -> Tensor:
    """The rows `(tokens, in)` of an input that are not padding."""
    for mask in masks:
        if x.shape[:-1] == mask.shape:
            return x[mask.bool()] if not bool(mask.all()) else x.reshape(-1, x.shape[-1])
        if x.ndim == 2 and len(x) == mask.numel():
            return x[mask.bool().flatten()]
    if all(bool(mask.all()) for mask in masks):
        return x.reshape(-1, x.shape[-1])
    raise PaddingUnknownError(name)


def _spaces(model: Any, names: Sequence[str], batch: Batch) -> dict[str, str]:
    """Group modules by the identity of the tensors that one batch hands them."""
    seen: dict[str, list[tuple[Tensor, int]]] = {name: [] for name in names}

    def see(name: str) -> Any:
        def record(module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            x = _input(positional, named)
            # The version counts changes in place: after one, the same tensor is another input.
            seen[name].append((x, x._version))

        return record

    hooks = [
        model.get_submodule(name).register_forward_pre_hook(see(name), with_kwargs=True) for name in names
    ]
    try:
        _run(model, {key: value[:1] for key, value in batch.items()})
    finally:
        for hook in hooks:
            hook.remove()
    leaders: dict[tuple[Any, ...], str] = {}
    spaces: dict[str, str] = {}
    for name in names:
        # `seen` keeps the tensors alive, so that an identity cannot be used twice.
        key = tuple((id(x), version) for x, version in seen[name]) or (name,)
        spaces[name] = leaders.setdefault(key, name)
    return spaces


def _masks(batch: Batch) -> list[Tensor]:
    return [batch[key] for key in ("attention_mask", "decoder_attention_mask") if key in batch]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in evaluation mode, and afterwards in its own again."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def _run(model: Any, batch: Batch) -> None:
    model(**{key: value.to(model.device) for key, value in batch.items() if key != "labels"})
