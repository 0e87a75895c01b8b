"""A short training behind a cut: on the windows calibrated on, say what the dense model said."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.observing import backward_tokens
from eckart.compression.dividing import Divided
from eckart.estimate.time import IMITATED_TOKENS, imitated_tokens
from eckart.linalg import has_products, wide_products
from eckart.model import text
from eckart.recovery import learning
from eckart.recovery.distillation import Distillation
from eckart.recovery.settings import Training
from eckart.recovery.windows import Example
from eckart.structures import StructuredEmbedding, StructuredLinear
from eckart.types import Track

STEP_TOKENS = 2048
PASS_TOKENS = 512
"""Run forward and back at once, or more of a small model: what the way back needs is kept for all."""
RATE = 1e-4
HEAD_TOLERANCE = 1e-2
"""Of the largest logit: rounding of half precision in products of other shapes."""


class Answers(nn.Module):
    """What a dense model says to some windows, kept, so that it need not be there any more.

    Of a model with a head over words its last hidden states are kept, and the head makes logits of them
    again; of one without, these are the answer; of a classifier the logits are.

    Args:
        model: dense.
        windows: what it is asked.
    """

    def __init__(self, model: Any, tokenizer: Any, windows: Sequence[text.Window], track: Track) -> None:
        super().__init__()
        self.config = model.config
        # In a tuple, so that it is no submodule: the model's own is not to be moved or put into a mode.
        self._head: tuple[Any, ...] = (model.get_output_embeddings(),) if model.can_generate() else ()
        self.said: dict[bytes, Tensor] = {}
        batches = text.batches(model, tokenizer, windows, STEP_TOKENS)
        for batch in track(batches, "remembering", len(batches)):
            for key, rows in zip(_keys(batch), self._asked(model, batch), strict=True):
                self.said[key] = rows.clone()

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
        with torch.no_grad(), wide_products():
            return SimpleNamespace(logits=self._logits(hidden))

    def _logits(self, hidden: Tensor) -> Tensor:
        (head,) = self._head
        logits: Tensor = head(hidden.to(head.weight.dtype))
        cap = getattr(self.config.get_text_config(), "final_logit_softcapping", None)
        return logits if cap is None else cap * (logits / cap).tanh()

    @torch.no_grad()
    def _asked(self, model: Any, batch: text.Batch) -> Iterator[Tensor]:
        """The answer to each window of a batch, without its padding."""
        read: list[Tensor] = []

        def see(module: nn.Module, given: tuple[Tensor, ...]) -> None:
            read.append(given[0])
            if self.said:
                # The head is known by now, and its logits are large.
                raise _Enough

        inputs = {name: value.to(model.device) for name, value in batch.items() if name != "labels"}
        with ExitStack() as stack:
            for head in self._head:
                stack.callback(head.register_forward_pre_hook(see).remove)
            stack.enter_context(wide_products())
            stack.enter_context(suppress(_Enough))
            output = model(**inputs)
            if self._head:
                self._require_whole(read[0][:1], output.logits[:1])
        answer = read[0] if self._head else getattr(output, "logits", None)
        if answer is None:
            answer = output.last_hidden_state
        mask = batch.get("decoder_attention_mask", batch["attention_mask"])
        for row, real in zip(answer, mask, strict=True):
            yield row if row.ndim == 1 else row[: int(real.sum())]

    def _require_whole(self, hidden: Tensor, logits: Tensor) -> None:
        """Raises UnknownHeadError where more follows the output embedding than a cap of the logits."""
        apart = (self._logits(hidden).float() - logits.float()).abs().max()
        if apart > HEAD_TOLERANCE * logits.float().abs().max():
            raise UnknownHeadError("more than its output embedding makes its logits")


class _Enough(Exception):  # noqa: N818 - not an error: what was wanted has been seen
    """Ends a forward pass before its head."""


class UnknownHeadError(Exception):
    """What makes logits of hidden states is more than the model's output embedding."""


@dataclass(frozen=True)
class Imitation:
    """What is learned from, and by whom.

    Attributes:
        answers: of the dense model.
        examples: the windows that were asked.
    """

    tokenizer: Any
    answers: Answers
    examples: list[Example]

    @classmethod
    def of(cls, model: Any, divided: Divided, track: Track) -> Imitation:
        """Have the dense model's answers.

        Raises:
            UnknownHeadError: they cannot be kept.
        """
        taken = divided.taken(IMITATED_TOKENS)
        answers = Answers(model, divided.tokenizer, taken, track)
        examples = [
            Example(
                array("i", window.ids),
                written=None if window.labels is None else array("i", window.labels),
                said=None if window.said is None else array("b", window.said),
            )
            for window in taken
        ]
        return cls(divided.tokenizer, answers, examples)

    @property
    def tokens(self) -> int:
        """That there are to learn from."""
        return sum(map(len, self.examples))

    def settings(self, model: Any) -> Training:
        """How the model is trained."""
        mean = self.tokens / len(self.examples)
        least = min(max(PASS_TOKENS, backward_tokens(model)), STEP_TOKENS)
        at_once = max(1, int(least / mean))
        passes = max(1, round(STEP_TOKENS / mean / at_once))
        narrow = model.dtype == torch.bfloat16 and (model.device.type != "cpu" or has_products(model.dtype))
        return Training(
            tokens=imitated_tokens(self.tokens),
            batch=at_once * passes,
            accumulate=passes,
            learning_rate=RATE,
            warmup=0.1,
            precision="bf16" if narrow else "float32",
        )

    def train(self, model: Any, track: Track) -> float:
        """Train the factors of a cut model in place; over how many passes."""
        from eckart.recovery.training import TrainingMethod, train

        training = self.settings(model)
        with in_float32(model), tempfile.TemporaryDirectory() as work:
            learning.choose(model, training)
            trained = train(
                model,
                self.tokenizer,
                self.examples,
                training,
                workdir=Path(work),
                method=TrainingMethod(objective=Distillation(), teacher=self.answers, keeps=False),
                track=track,
            )
        return trained.tokens / self.tokens

    @staticmethod
    def weights(model: Any) -> dict[str, Tensor]:
        """What the training changes, to have it again with `restore`."""
        return {
            f"{at}.{name}": each.detach().clone()
            for at, module in model.named_modules()
            if isinstance(module, (StructuredLinear, StructuredEmbedding))
            for name, each in module.named_parameters()
        }

    @staticmethod
    @torch.no_grad()
    def restore(model: Any, weights: Mapping[str, Tensor]) -> None:
        """Have these weights again."""
        for name, each in model.named_parameters():
            if name in weights:
                each.copy_(weights[name])


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """A model's weights in float32, as an optimizer needs them; afterwards all but their values as it was."""
    dtypes = {name: each.dtype for name, each in _tensors(model)}
    learning_ = {name: each.requires_grad for name, each in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    model.float()
    try:
        yield
    finally:
        for name, each in _tensors(model):
            each.data = each.data.to(dtypes[name])
        for name, each in model.named_parameters():
            each.grad = None
            each.requires_grad_(learning_[name])
        for module, mode in modes:
            module.training = mode


def _tensors(model: Any) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _keys(batch: Any) -> list[bytes]:
    """A name for each window of a batch: its real tokens."""
    keys = [b"" for _ in batch["input_ids"]]
    for part in ("", "decoder_"):
        if f"{part}input_ids" in batch:
            mask = batch[f"{part}attention_mask"].bool().cpu()
            for at, (row, real) in enumerate(zip(batch[f"{part}input_ids"].cpu(), mask, strict=True)):
                keys[at] += b";" + row[real].numpy().tobytes()
    return keys
