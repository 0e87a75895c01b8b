"""What a model learns from its teacher: the dense model that it was cut from, or one of its kin."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eckart.linalg import wide_products
from eckart.model.loading import generates
from eckart.model.text import IGNORED, Batch, aimed
from eckart.types import EckartError, UsageError

DROPOUT = nn.modules.dropout._DropoutNd

ROWS = 64
"""Of logits at once, so that they stay near the processor."""
ENCODER = "an encoder"
ENCODER_HIDDEN = 4.0
"""Hidden states lead: on MiniLM they bring embeddings nearer than the embeddings' own distance does."""


@dataclass(frozen=True)
class Distillation:
    """A loss for `train`: answer as the teacher does. Called as `objective(model, teacher, batch)`.

    - Logits for each token (a decoder, an encoder-decoder): for each token with a label
      `(1 - labels) T² KL(teacher ‖ model) + labels · cross-entropy`, the divergence at temperature `T`
      (Hinton et al., "Distilling the knowledge in a neural network", 2015, section 2: `T²` keeps the size of
      the gradient), the cross-entropy at 1. A model that fills gaps answers for each real token where it has
      no labels. It counts tokens.
    - No logits (an encoder): the squared distance of the window's embedding from the teacher's, both the mean
      of the last hidden states over real tokens, divided by its length. It counts windows.
    - Logits for a window (a classifier): the divergence; of one logit (a regression, a re-ranker), half the
      squared difference. It counts windows.

    `hidden` adds how far each token's hidden states are from the teacher's: their squared distance over the
    teacher's squared length, in the mean over all layers (where the teacher has as many; over the last alone,
    where not), and where windows are counted, over the tokens of a window.

    Every term is a sum over what is counted, and no window sees another. So the mean over a step is the same
    in however many passes and processes it is read.

    Attributes:
        temperature: above 1 the less likely tokens say more.
        labels: the share of the labels' own loss, from 0, the teacher alone, to 1.
        hidden: weight of the hidden states; default `ENCODER_HIDDEN` of a model that only reads, 0 of one
            that writes. The teacher is as wide as the model for it.

    Raises:
        UsageError: a value out of range.
    """

    temperature: float = 1.0
    labels: float = 0.0
    hidden: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < inf:
            raise UsageError(f"--temperature {self.temperature:g}: it is above 0")
        if not 0 <= self.labels <= 1:
            raise UsageError(f"--labels {self.labels:g}: it is a share, from 0 to 1")
        if self.hidden is not None and not 0 <= self.hidden < inf:
            raise UsageError(f"--hidden {self.hidden:g}: it is 0 or more")

    def __call__(self, model: Any, teacher: Any, batch: Batch) -> tuple[Tensor, int]:
        """The summed loss, and of how many tokens or windows it is a sum.

        Args:
            model: what learns, in whichever mode it is.
            teacher: on the model's device; it is put into evaluation mode and gets no gradient.
            batch: `input_ids` and `attention_mask`, `decoder_…` of them for an encoder-decoder, `labels`
                with -100 where no loss is. A decoder's label stands at the place of its own token.

        Raises:
            EckartError: the teacher answers in another shape, or the labels' loss has no labels.
        """
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        teacher.eval()
        # Asked for where they are used alone: the teacher's would be kept for all layers.
        weight = self._weight(model)
        deep = bool(weight)
        with torch.no_grad(), wide_products():
            taught = teacher(**inputs, output_hidden_states=deep)
        said = model(**inputs, output_hidden_states=deep)
        mine, right = (getattr(output, "logits", None) for output in (said, taught))
        if _shape(mine) != _shape(right):
            raise EckartError(
                f"the teacher's logits are {_shape(right) or 'none'} where the model's are "
                f"{_shape(mine) or 'none'}: the two do not answer alike"
            )
        if mine is not None and mine.ndim > 2:
            labels = batch.get("labels")
            labels = None if labels is None else aimed(model, labels)
            loss, counts = self._tokens(said, taught, labels, batch)
            shares = counts.float()
        else:
            loss, counts = self._windows(said, taught, batch)
            shares = counts / counts.sum(1, keepdim=True)
        if weight:
            loss = loss + weight * (_strayed(said, taught, counts) * shares[counts]).sum()
        return loss, round(float(shares.sum()))

    def _weight(self, model: Any) -> float:
        """Of the hidden states of this model."""
        if self.hidden is not None:
            return self.hidden
        return 0.0 if model.can_generate() else ENCODER_HIDDEN

    def _tokens(self, said: Any, taught: Any, labels: Tensor | None, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss without hidden states, and the positions that count."""
        counts = batch["attention_mask"].bool() if labels is None else labels != IGNORED
        mine, right = said.logits.flatten(0, 1), taught.logits.flatten(0, 1)
        rows = counts.flatten().nonzero().squeeze(1)
        loss = (1 - self.labels) * self._divergence(mine, right, rows)
        if self.labels:
            if labels is None:
                raise EckartError("the data has no labels to learn from: leave --labels out")
            own = functional.cross_entropy(mine[rows].float(), labels.flatten()[rows], reduction="sum")
            loss = loss + self.labels * own
        return loss, counts

    def _windows(self, said: Any, taught: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """The loss without hidden states, and the positions that are real."""
        if self.labels:
            raise EckartError("this model's data has no labels to learn from: leave --labels out")
        mask = batch["attention_mask"]
        if getattr(said, "logits", None) is None:
            mine, right = (_embeddings(output, mask) for output in (said, taught))
            loss = (mine - right).square().sum()
        else:
            mine, right = said.logits.float(), taught.logits.float()
            if mine.shape[1] == 1:
                loss = (mine - right).square().sum() / 2
            else:
                loss = self._divergence(mine, right, torch.arange(len(mine), device=mine.device))
        return loss, mask.bool()

    def _divergence(self, mine: Tensor, right: Tensor, rows: Tensor) -> Tensor:
        """`T² Σ KL(right ‖ mine)` over these rows of logits `(rows, choices)`."""
        loss: Tensor = _Divergence.apply(mine, right, rows, self.temperature)
        return self.temperature**2 * loss


class _Divergence(torch.autograd.Function):
    """`Σ KL(right ‖ mine)` of logits `(rows, choices)` divided by a temperature, a few rows at a time.

    Of a large vocabulary a tensor of logits is what a step has most of. Its gradient, the difference of two
    distributions, is all that is kept of them; only the rows that count are read, and upcast.
    """

    @staticmethod
    def forward(ctx: Any, mine: Tensor, right: Tensor, rows: Tensor, temperature: float) -> Tensor:
        loss = mine.new_zeros((), dtype=torch.float32)
        back = torch.zeros_like(mine)
        for some in rows.split(ROWS):
            after, before = (
                (logits.index_select(0, some).float() / temperature).log_softmax(-1)
                for logits in (mine, right)
            )
            taught = before.exp()
            back.index_copy_(0, some, (after.exp() - taught).div_(temperature).to(back.dtype))
            loss += taught.mul_(before.sub_(after)).sum()
        ctx.save_for_backward(back)
        return loss

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return back.mul_(given[0]), None, None, None


def require_teacher(config: Any, teacher: Any, hidden: float | None = None) -> None:
    """Raises UsageError where a teacher's answers cannot be compared with the model's; both are configs.

    Args:
        hidden: weight of the hidden states, as in `Distillation`.
    """
    kind, other = _kind(config), _kind(teacher)
    if kind != other:
        raise UsageError(f"the teacher is {other} and the model {kind}: their answers cannot be compared")
    own, its = config.get_text_config(), teacher.get_text_config()
    if own.vocab_size != its.vocab_size:
        raise UsageError(
            f"the teacher's vocabulary has {its.vocab_size:,} tokens and the model's {own.vocab_size:,}: "
            "they must be one. The teacher is the model that was cut, or one of the same family"
        )
    if (hidden or kind == ENCODER) and own.hidden_size != its.hidden_size:
        what = "their embeddings" if kind == ENCODER else "hidden states (--hidden)"
        raise UsageError(
            f"the teacher's hidden states are {its.hidden_size:,} wide and the model's {own.hidden_size:,}: "
            f"{what} cannot be compared"
        )


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """No activation is dropped at random meanwhile, though the model is in training mode.

    A teacher's answer is of what it read, all of it: a model that reads with gaps learns to differ from it.
    On MiniLM, with the default 0.1, dropping loses more than a short training gains.
    """
    rates = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and ("dropout" in name or (isinstance(module, DROPOUT) and name == "p"))
    ]
    for module, name, _ in rates:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in rates:
            setattr(module, name, value)


def _kind(config: Any) -> str:
    if not generates(config):
        return ENCODER
    return "an encoder-decoder" if config.is_encoder_decoder else "a decoder"


def _shape(logits: Tensor | None) -> tuple[int, ...]:
    return () if logits is None else tuple(logits.shape)


def _embeddings(output: Any, mask: Tensor) -> Tensor:
    # A sum has the direction of the mean.
    return functional.normalize((output.last_hidden_state.float() * mask[..., None]).sum(1), dim=-1)


def _strayed(said: Any, taught: Any, counts: Tensor) -> Tensor:
    """How far hidden states are from the teacher's where `counts` says, `(tokens,)`: see `Distillation`."""
    mine, right = (
        (getattr(output, "decoder_hidden_states", None) or output.hidden_states)[1:]
        for output in (said, taught)
    )
    if len(mine) != len(right):
        mine, right = mine[-1:], right[-1:]
    far = []
    for one, other in zip(mine, right, strict=True):
        # Some models write zeros over padding: no length to divide by.
        own, its = one[counts].float(), other[counts].float()
        far.append((own - its).square().sum(-1) / its.square().sum(-1))
    return torch.stack(far).mean(0)
