"""Moments by hooks: one per input space on the way forward, one per target on the way back.

Several modules often read the same activation (query, key and value; gate and up; every cross-attention
of a decoder). They form one input space, recognised by identity: in the first batch they are handed the
very same tensor. One hook per space then adds its moment once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, frozen, recomputing, uncached
from eckart.calibrate.observed import GRADIENT_KINDS, INPUT_KINDS, Observed
from eckart.calibrate.rows import Batch, masks_of, module_input
from eckart.calibrate.sums import InputSum, OutputSum, mirror
from eckart.linalg import wide_products
from eckart.model.text import told
from eckart.types import EckartError, Track, silent

WIDEST = 16_384
"""Outputs of a module whose gradients are summed: the sum is of their products, two by two."""

Loss = Callable[[Any, Batch], Tensor]
"""`loss(output, batch)`: one number, summed over the tokens or the windows of the batch, never averaged."""


def watch(
    model: Any,
    names: Sequence[str],
    batches: Sequence[Batch],
    kinds: frozenset[str],
    track: Track = silent,
    *,
    loss: Loss | None = None,
    onto: Observed | None = None,
    blocks: Sequence[nn.Module] = (),
) -> Observed:
    """Run `model` on `batches` and sum what the named modules read, and what a loss says back to them.

    Padding does not count. The model runs in evaluation mode, whatever mode it is in: dropout is no part of
    what the targets read. Weights get no gradient: `requires_grad` is off during the run and afterwards as
    it was. Where no gradient is asked for and the head is no target, the head does not run.

    `gradient` is `Σ g gᵀ` over tokens, `g = ∂loss/∂y` of the loss summed over the batch. `fisher` squares a
    weight's gradient window by window; where a module's input does not say where a window ends (an expert
    that is handed some of the tokens), each token counts as a window.

    Of a module with more than `WIDEST` outputs, a head, there is no gradient.

    Args:
        names: modules whose first argument is `(…, in)`.
        batches: keyword arguments of the model, with masks where something is padded. `labels` and `SAID`
            are for the loss: the model does not see them.
        kinds: which sums: `second` and `absolute` of the inputs, `gradient` and `fisher` of the outputs.
        loss: what is differentiated; needed for `gradient` and `fisher`, as those in `losses.py`.
        onto: what another run over the same targets has seen of their inputs: it is added to, in its place.
        blocks: of the model, which are run again for the way back where otherwise much would wait for it.

    Raises:
        PaddingUnknownError: a padded batch reached a module in a shape that no mask explains.
        EckartError: a module read something that is not finite, or got such a gradient, or so is the loss.
        ValueError: a kind that does not exist, or gradients without a loss.
    """
    if unknown := kinds - INPUT_KINDS - GRADIENT_KINDS:
        raise ValueError(f"no such sum: {', '.join(sorted(unknown))}")
    backward = bool(kinds & GRADIENT_KINDS)
    if backward and loss is None:
        raise ValueError("gradients are those of a loss: give one")
    if backward and any(parameter.is_inference() for parameter in model.parameters()):
        raise EckartError(
            "this model was loaded within torch.inference_mode(), and its tensors bear no gradient: "
            "load it outside"
        )
    # A caller's inference mode would forbid what a backward pass needs, and to tell inputs apart.
    with (
        torch.inference_mode(False),
        torch.no_grad(),
        evaluating(model),
        uncached(model),
        frozen(model) if backward else nullcontext(),
    ):
        row = {key: value[:1] for key, value in batches[0].items()}
        reads = _reads(model, model, names, row)
        spaces = _spaces(reads) if onto is None else onto.spaces
        runs = model if backward else _lightest(model, reads, row)
        del reads
        watching = _Watch(model, runs, names, kinds, spaces)
        for read in watching.inputs:
            if onto is not None and read.space in onto.moments:
                read.moment = onto.moments[read.space]
        if not backward:
            return watching.over(batches, None, track)
        with recomputing(model, blocks, max(batch["input_ids"].numel() for batch in batches)):
            return watching.over(batches, loss, track)


def spaces_of(model: Any, names: Sequence[str], batch: Batch) -> dict[str, str]:
    """Each module's input space, named after the first that reads it; seen on one batch."""
    with torch.no_grad(), evaluating(model), uncached(model):
        return _spaces(_reads(model, model, names, batch))


class _Watch:
    def __init__(
        self, model: Any, runs: Any, names: Sequence[str], kinds: frozenset[str], spaces: dict[str, str]
    ) -> None:
        self.model, self.runs, self.kinds, self.spaces = model, runs, kinds, spaces
        self.inputs: list[InputSum] = []
        self.outputs: list[OutputSum] = []
        if kinds & INPUT_KINDS:
            self.inputs = [InputSum(space, kinds) for space in dict.fromkeys(spaces.values())]
        if kinds & GRADIENT_KINDS:
            self.outputs = [OutputSum(name, kinds) for name in names if _width(model, name) <= WIDEST]

    def over(self, batches: Sequence[Batch], loss: Loss | None, track: Track) -> Observed:
        tokens = 0
        with self._hooked():
            for number, batch in enumerate(track(batches, "calibrating", len(batches)), 1):
                masks = masks_of(batch)
                tokens += sum(int(mask.sum()) for mask in masks)
                for read in self.inputs:
                    read.masks = masks
                for written in self.outputs:
                    written.masks = masks
                if loss is None:
                    run_on(self.runs, batch)
                else:
                    self._differentiate(batch, loss, number)
        self._check()
        moments = {read.space: read.moment for read in self.inputs if read.moment.tokens}
        gradients = {written.name: written.moment for written in self.outputs if written.moment.tokens}
        for moment in (*moments.values(), *gradients.values()):
            mirror(moment)
        return Observed(self.spaces, moments, tokens, gradients, self.kinds)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for read in self.inputs:
                module = self.model.get_submodule(read.space)
                hooks.callback(module.register_forward_pre_hook(read, with_kwargs=True).remove)
            for written in self.outputs:
                module = self.model.get_submodule(written.name)
                hooks.callback(module.register_forward_hook(written, with_kwargs=True).remove)
            yield

    def _differentiate(self, batch: Batch, loss: Loss, number: int) -> None:
        total = loss_of(self.runs, batch, loss, number, self._check)
        if total.requires_grad:
            total.backward()
        for sum_ in self.outputs:
            sum_.finish_batch()

    def _check(self) -> None:
        for read in self.inputs:
            read.check()
        # A gradient goes from the end of the model to its beginning, and so does what overflows.
        for written in reversed(self.outputs):
            written.check()


def _width(model: Any, name: str) -> int:
    """The outputs of a module; 0 where it does not say."""
    return int(getattr(model.get_submodule(name), "out_features", 0))


Reads = dict[str, list[tuple[Tensor, int]]]
"""What each module was handed, call by call, with the tensor's version: after a change in place, the same
tensor is another input. The tensors are kept alive, so that an identity cannot be used twice."""


def _reads(model: Any, runs: Any, names: Sequence[str], batch: Batch) -> Reads:
    """What the named modules of `model` are handed when `runs`, it or a part of it, sees one batch."""
    seen: Reads = {name: [] for name in names}

    def see(name: str) -> Any:
        def record(module: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            x = module_input(positional, named)
            seen[name].append((x, x._version))

        return record

    with ExitStack() as hooks:
        for name in names:
            hook = model.get_submodule(name).register_forward_pre_hook(see(name), with_kwargs=True)
            hooks.callback(hook.remove)
        run_on(runs, batch)
    return seen


def _spaces(reads: Reads) -> dict[str, str]:
    """Group modules by the identity of the tensors that one batch hands them."""
    leaders: dict[tuple[Any, ...], str] = {}
    spaces: dict[str, str] = {}
    for name, read in reads.items():
        key = tuple((id(x), version) for x, version in read) or (name,)
        spaces[name] = leaders.setdefault(key, name)
    return spaces


def _lightest(model: Any, reads: Reads, batch: Batch) -> Any:
    """The model without its head, where that hands every target the very same numbers: logits are large."""
    body = getattr(model, "base_model", model)
    if body is model:
        return model
    try:
        again = _reads(model, body, list(reads), batch)
    except Exception:  # a body may want other arguments than the whole, and fail in any way
        return model
    same = all(
        len(read) == len(again[name])
        and all(torch.equal(one, other) for (one, _), (other, _) in zip(read, again[name], strict=True))
        for name, read in reads.items()
    )
    return body if same else model


def run_on(model: Any, batch: Batch) -> Any:
    """What a model gives for a batch, which may lie elsewhere."""
    with wide_products():
        return model(**_on_device(told(batch), model.device))


def loss_of(model: Any, batch: Batch, loss: Loss, number: int, check: Callable[[], None]) -> Tensor:
    """The loss of a batch, ready to be differentiated.

    Args:
        number: of the batch, for the message.
        check: raises a better error, where a sum says what went wrong first.

    Raises:
        EckartError: it is not finite.
    """
    with torch.enable_grad():
        total = loss(run_on(model, batch), _on_device(batch, model.device))
    if not torch.isfinite(total):
        check()
        raise EckartError(
            f"while calibrating, the loss of batch {number} is not finite: "
            "the model overflows on this data; try another dtype"
        )
    return total


def _on_device(batch: Batch, device: torch.device) -> Batch:
    moved = {key: value.to(device) for key, value in batch.items()}
    return {key: value.clone() if value.is_inference() else value for key, value in moved.items()}
