"""What a dense model says, kept so that it need not be there any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, uncached
from eckart.calibrate.watch import run_on
from eckart.linalg import wide_products
from eckart.model import text
from eckart.types import Track

ASKED_TOKENS = 2048
HEAD_TOLERANCE = 1e-2
"""Of the largest logit: rounding of half precision in products of other shapes."""


class Answers(nn.Module):
    """What a dense model says to some windows, kept, so that it need not be there any more.

    Of a model with a head over words its last hidden states are kept, and the head makes logits of them
    again; of one without, these are the answer; of a classifier the logits are.

    Args:
        model: dense. The first window is asked at once.
        windows: what it is asked.
        by_rows: whether who learns reads a few rows of logits at a time: they are made as they are read.

    Raises:
        UnknownHeadError: more than the output embedding makes its logits.
    """

    def __init__(
        self, model: Any, tokenizer: Any, windows: Sequence[text.Window], by_rows: bool = False
    ) -> None:
        super().__init__()
        # What a decoder says to the beginning of a longer window does not depend on what follows.
        self._longest = max(len(each.ids) for each in windows) if text.is_causal(model) else None
        self._by_rows = by_rows
        self.config, self.device = model.config, model.device
        # In tuples, so that they are no submodules: the model's own are not to be moved or put into a mode.
        self._head: tuple[Any, ...] = (model.get_output_embeddings(),) if model.can_generate() else ()
        self._whole: tuple[Any, ...] = (model,)
        self._asked: tuple[Any, ...] = (model,)
        self._heard: tuple[Any, ...] = (*self._head, model)[:1]
        self.said: dict[bytes, Tensor] = {}
        self._batches = partial(text.batches, model, tokenizer, batch_tokens=ASKED_TOKENS)
        (first,) = self._batches(windows[:1])
        self._windows = {_keys(batch)[0]: window for window in windows for batch in self._batches([window])}
        if self._head:
            self._begin(first)

    def _begin(self, first: text.Batch) -> None:
        """Find where the answer is heard: where the head reads it, or at the end of the model's body."""
        (model,) = self._asked
        bodies: list[Tensor | None] = []
        body = getattr(model, "base_model", model)

        def see(module: nn.Module, given: Any, output: Any) -> None:
            bodies.append(getattr(output, "last_hidden_state", None))

        with self.listening() as read, ExitStack() as stack:
            stack.callback(body.register_forward_hook(see).remove)
            output = self._run(model, first)
        self._require_whole(read[0][:1], output.logits[:1])
        end = bodies[0] if bodies else None
        if body is not model and end is not None and torch.equal(end, read[0]):
            # Who calibrates on inputs alone asks no more of the model than this.
            self._asked = self._heard = (body,)

    @contextmanager
    def listening(self, enough: bool = False) -> Iterator[list[Tensor]]:
        """Meanwhile what the dense model says to the windows is kept, whoever asks it.

        Args:
            enough: stop the model where its answer is there.

        Yields:
            The last answer, padded as its batch.
        """
        (heard,) = self._heard
        batch: dict[str, Any] = {}
        last: list[Tensor] = []

        def ask(module: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
            given = {name: value for name, value in named.items() if isinstance(value, Tensor)}
            # A part of the model may be handed the embeddings of what the whole was, or another mask.
            if all(name in given and given[name].ndim == 2 for name in _NAMES):
                batch.clear()
                batch.update(given)

        def hear(answer: Tensor) -> None:
            last[:] = [answer]
            mask = batch.get("decoder_attention_mask", batch.get("attention_mask"))
            if mask is None or (answer.ndim != 2 and answer.shape[:2] != mask.shape):
                return
            for key, row, real in zip(_keys(batch, self._longest), answer, mask, strict=True):
                if key in self._windows and key not in self.said:
                    said = row if row.ndim == 1 else row[: int(real.sum())][: self._longest]
                    self.said[key] = said.detach().clone()

        def read(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            hear(given[0])
            if enough:
                raise _Enough

        def say(module: nn.Module, given: Any, output: Any) -> None:
            logits = None if self._head else getattr(output, "logits", None)
            hear(output.last_hidden_state if logits is None else logits)

        with ExitStack() as stack:
            # A body may be handed by position what the whole was by name.
            for module in {id(each): each for each in (*self._whole, *self._asked)}.values():
                hook = module.register_forward_pre_hook(ask, with_kwargs=True)
                stack.callback(hook.remove)
            at_head = self._head and heard is self._head[0]
            hook = heard.register_forward_pre_hook(read) if at_head else heard.register_forward_hook(say)
            stack.callback(hook.remove)
            yield last

    def ask(self, track: Track) -> None:
        """Ask what has not been heard yet."""
        (model,) = self._asked
        left = [window for key, window in self._windows.items() if key not in self.said]
        batches = self._batches(left) if left else []
        with self.listening(enough=True):
            for batch in track(batches, "remembering", len(batches)):
                self._run(model, batch)

    def let_go(self) -> None:
        """The model is asked no more, and may end; its head stays."""
        self._whole = self._asked = self._heard = ()

    @staticmethod
    def _run(model: Any, batch: text.Batch) -> Any:
        with torch.no_grad(), evaluating(model), uncached(model), suppress(_Enough):
            return run_on(model, batch)

    def forward(self, **batch: Any) -> Any:
        """An output with `logits`, or with hidden states alone."""
        rows = [self.said[key] for key in _keys(batch)]
        if rows[0].ndim == 1:
            return SimpleNamespace(logits=torch.stack(rows))
        width = batch.get("decoder_attention_mask", batch["attention_mask"]).shape[1]
        hidden = rows[0].new_zeros(len(rows), width, rows[0].shape[1])
        for place, row in zip(hidden, rows, strict=True):
            place[: len(row)] = row
        if not self._head:
            return SimpleNamespace(last_hidden_state=hidden, hidden_states=(hidden, hidden))
        logits = _Logits(hidden, self._logits)
        return SimpleNamespace(logits=logits if self._by_rows else logits.whole())

    def _logits(self, hidden: Tensor) -> Tensor:
        (head,) = self._head
        logits: Tensor = head(hidden.to(head.weight.dtype))
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    def _require_whole(self, hidden: Tensor, logits: Tensor) -> None:
        """Raises UnknownHeadError where more follows the output embedding than a cap of the logits."""
        with torch.no_grad(), wide_products():
            again = self._logits(hidden)
        apart = (again.float() - logits.float()).abs().max()
        if apart > HEAD_TOLERANCE * logits.float().abs().max():
            raise UnknownHeadError("more than its output embedding makes its logits")


class _Logits:
    """Logits `(windows, positions, words)`, made where they are read: all of them at once are large."""

    def __init__(self, hidden: Tensor, head: Callable[[Tensor], Tensor]) -> None:
        self.hidden, self.head = hidden, head
        self.shape = (*hidden.shape[:-1], self._of(hidden[..., :1, :].flatten(0, -2)[:1]).shape[-1])
        self.ndim = hidden.ndim

    def flatten(self, first: int, last: int) -> _Logits:
        """As a tensor's."""
        return _Logits(self.hidden.flatten(first, last), self.head)

    def index_select(self, dimension: int, index: Tensor) -> Tensor:
        """As a tensor's."""
        return self._of(self.hidden.index_select(dimension, index))

    def whole(self) -> Tensor:
        """All of them."""
        return self._of(self.hidden)

    def _of(self, hidden: Tensor) -> Tensor:
        with torch.no_grad(), wide_products():
            return self.head(hidden)


class _Enough(Exception):  # noqa: N818 - not an error: what was wanted has been seen
    """Ends a forward pass before its head."""


class UnknownHeadError(Exception):
    """What makes logits of hidden states is more than the model's output embedding."""


_NAMES = ("input_ids", "attention_mask")
"""Of a batch, whatever else it has."""


def _keys(batch: Any, first: int | None = None) -> list[bytes]:
    """A name for each window of a batch: its real tokens, the first of them alone where that is said."""
    keys = [b"" for _ in batch["input_ids"]]
    for part in ("", "decoder_"):
        if f"{part}input_ids" in batch:
            mask = batch[f"{part}attention_mask"].bool().cpu()
            for at, (row, real) in enumerate(zip(batch[f"{part}input_ids"].cpu(), mask, strict=True)):
                keys[at] += b";" + row[real][:first].numpy().tobytes()
    return keys
