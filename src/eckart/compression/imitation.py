"""A short training behind a cut: on the windows calibrated on, say what the dense model said."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from eckart.calibrate.modes import evaluating, uncached
from eckart.calibrate.watch import run_on
from eckart.compression.dividing import Divided
from eckart.estimate.time import imitated_tokens
from eckart.linalg import rounded_at_random, wide_products
from eckart.model import text
from eckart.recipes.efforts import Effort
from eckart.recovery import learning
from eckart.recovery.distillation import Distillation
from eckart.recovery.settings import Training
from eckart.recovery.windows import Collator, Example
from eckart.structures import StructuredEmbedding, StructuredLinear
from eckart.types import Track

ASKED_TOKENS = 2048
STEP_TOKENS = 512
"""What it needs is steps: the same tokens in a quarter as many, at four times the rate, do less."""
MOST_RATE, HALVINGS = 4e-4, 12
"""What the learning rate is sought in: that of one model is ten times that of another."""
UNTRAINED = "not trained to imitate the dense model"
HEAD_TOLERANCE = 1e-2
"""Of the largest logit: rounding of half precision in products of other shapes."""


class Answers(nn.Module):
    """What a dense model says to some windows, kept, so that it need not be there any more.

    Of a model with a head over words its last hidden states are kept, and the head makes logits of them
    again; of one without, these are the answer; of a classifier the logits are.

    Args:
        model: dense. The first window is asked at once.
        windows: what it is asked.

    Raises:
        UnknownHeadError: more than the output embedding makes its logits.
    """

    def __init__(self, model: Any, tokenizer: Any, windows: Sequence[text.Window]) -> None:
        super().__init__()
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
            for key, row, real in zip(_keys(batch), answer, mask, strict=True):
                if key in self._windows and key not in self.said:
                    self.said[key] = (row if row.ndim == 1 else row[: int(real.sum())]).detach().clone()

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
        with torch.no_grad(), wide_products():
            return SimpleNamespace(logits=self._logits(hidden))

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
        effort: how long it learns.
    """

    tokenizer: Any
    answers: Answers
    examples: list[Example]
    effort: Effort

    @classmethod
    def of(cls, model: Any, divided: Divided) -> Imitation:
        """Of the dense model, which is listened to, or asked, before it is cut.

        Raises:
            UnknownHeadError: its answers cannot be kept.
        """
        taken = divided.imitated()
        answers = Answers(model, divided.tokenizer, taken)
        examples = [
            Example(
                array("i", window.ids),
                written=None if window.labels is None else array("i", window.labels),
                said=None if window.said is None else array("b", window.said),
            )
            for window in taken
        ]
        return cls(divided.tokenizer, answers, examples, divided.effort)

    @property
    def tokens(self) -> int:
        """That there are to learn from."""
        return sum(map(len, self.examples))

    def settings(self, model: Any) -> Training:
        """How the model is trained, but for its learning rate."""
        mean = self.tokens / len(self.examples)
        return Training(
            tokens=imitated_tokens(self.tokens, self.effort),
            batch=max(1, round(STEP_TOKENS / mean)),
            warmup=0.1,
            # What one step changes is less than bfloat16 can tell apart: with its products half is learned.
            precision="float32",
        )

    def train(self, model: Any, track: Track) -> str:
        """Train the factors of a cut model in place; what was done, in words."""
        from eckart.recovery.training import TrainingMethod, train

        training = self.settings(model)
        with in_float32(model), tempfile.TemporaryDirectory() as work:
            learning.choose(model, training)
            rate = self.rate(model, training.batch)
            trained = train(
                model,
                self.tokenizer,
                self.examples,
                training.model_copy(update={"learning_rate": rate}),
                workdir=Path(work),
                method=TrainingMethod(objective=Distillation(), teacher=self.answers, keeps=False),
                track=track,
            )
        passes = trained.tokens / self.tokens
        return f"{passes:.1f} passes over {self.tokens:,} tokens at a learning rate of {rate:.0e}"

    def rate(self, model: Any, batch: int) -> float:
        """The largest learning rate of a series at which a first step does not move the model further.

        Adam's first step is as long for every weight, whichever way its gradient points. How long it may be
        is the model's own: with many wide layers all that is added up comes to more.

        Args:
            model: float32; those of its parameters that ask for a gradient learn.
            batch: examples in a step.
        """
        count = len(self.examples)
        taken = [self.examples[at * count // min(batch, count)] for at in range(min(batch, count))]
        read = {
            name: value.to(model.device)
            for name, value in Collator(model, text.padding_id(self.tokenizer))(taken).items()
        }
        objective = Distillation()
        with evaluating(model), uncached(model):
            loss, _ = objective(model, self.answers, read)
            loss.backward()
            weights = [each for each in model.parameters() if each.grad is not None]
            before = [each.detach().clone() for each in weights]
            rate = 2 * MOST_RATE
            with torch.no_grad():
                for _ in range(HALVINGS):
                    rate /= 2
                    for each, start in zip(weights, before, strict=True):
                        each.copy_(start - rate * each.grad.sign())
                    if objective(model, self.answers, read)[0] <= loss:
                        break
                for each, start in zip(weights, before, strict=True):
                    each.copy_(start)
                    each.grad = None
        return rate

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
    """A model's weights in float32, as an optimizer needs them; afterwards all but their values as it was.

    What has learned is rounded at random: what it learned is less than the distance between two numbers.
    """
    dtypes = {name: each.dtype for name, each in _tensors(model)}
    learning_ = {name: each.requires_grad for name, each in model.named_parameters()}
    modes = [(module, module.training) for module in model.modules()]
    model.float()
    try:
        yield
    finally:
        chance = torch.Generator().manual_seed(0)
        for name, each in _tensors(model):
            if each.requires_grad and each.dtype != dtypes[name]:
                each.data = rounded_at_random(each, dtypes[name], chance)
            else:
                each.data = each.data.to(dtypes[name])
        for name, each in model.named_parameters():
            each.grad = None
            each.requires_grad_(learning_[name])
        for module, mode in modes:
            module.training = mode


def _tensors(model: Any) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


_NAMES = ("input_ids", "attention_mask")
"""Of a batch, whatever else it has."""


def _keys(batch: Any) -> list[bytes]:
    """A name for each window of a batch: its real tokens."""
    keys = [b"" for _ in batch["input_ids"]]
    for part in ("", "decoder_"):
        if f"{part}input_ids" in batch:
            mask = batch[f"{part}attention_mask"].bool().cpu()
            for at, (row, real) in enumerate(zip(batch[f"{part}input_ids"].cpu(), mask, strict=True)):
                keys[at] += b";" + row[real].numpy().tobytes()
    return keys
