"""What is differentiated: one function per answer to "what should the gradients say?".

Each is `loss(output, batch)`, one number, summed over the tokens (or windows) of the batch, so that the
gradient at a position is the gradient of what was asked at that position and later, whatever the batch.

The gradients of sampled labels and random probes are Gauss-Newton ones: the expectation of `g gᵀ` is the
curvature of what the model's user compares, at the model as it is, and needs no label. What is drawn for a
window depends on the seed and on the window's tokens alone. So how windows are batched or divided among
machines changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from eckart.calibrate.rows import Batch, masks_of, widened
from eckart.calibrate.watch import Loss
from eckart.model.sentences import Head
from eckart.model.text import IGNORED, SAID, next_tokens, saying
from eckart.types import EckartError

TEMPERATURE = 1.0
ROWS = 64
"""Of logits at once."""


def loss_for(labels: str, temperature: float = TEMPERATURE, seed: int = 0, head: Head | None = None) -> Loss:
    """The loss of a choice: `sampled` from the model's own distribution, or given by the `data`.

    Args:
        head: what makes embeddings of an encoder's hidden states; default their mean.

    Raises:
        ValueError: another choice.
    """
    if labels == "sampled":
        return softened(temperature, seed, head)
    if labels == "data":
        return true_labels()
    raise ValueError(f"labels are sampled or data, not {labels!r}")


def softened(temperature: float = TEMPERATURE, seed: int = 0, head: Head | None = None) -> Loss:
    """What changes the model's answer, in the user's measure of it.

    - Logits (a decoder, an encoder-decoder, a classifier): cross-entropy of `softmax(logits / temperature)`
      with labels drawn from that very distribution, independently at every real position. Then
      `E[g gᵀ] = Σ Jᵀ (diag(p) − p pᵀ) J / temperature²`: the true Fisher, the Hessian of the KL divergence
      from the model as it is (Martens, "New insights and perspectives on the natural gradient method",
      2020, section 9). A classifier's logits `(windows, classes)` are drawn once for a window.
    - One logit for a window (a regression, a re-ranker): `z · logit`, `z ~ N(0, 1)`: the Gauss-Newton matrix
      of the squared error.
    - No logits (an encoder): `r · e`, `r ~ N(0, I)` fresh for each window, `e` the mean of the last hidden
      state over real tokens, or what the head makes of it, divided by its norm: the Gauss-Newton matrix of
      the squared distance of embeddings.

    Args:
        temperature: above 1 the distribution is softer, and less likely tokens say more.
        seed: of all that is drawn.
        head: as for `loss_for`.

    Raises:
        ValueError: a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"a temperature is above 0, not {temperature}")

    def loss(output: Any, batch: Batch) -> Tensor:
        generators = _generators(batch, seed)
        logits = getattr(output, "logits", None)
        if logits is None:
            return _probe(_embedding(output, batch, head), generators)
        if logits.ndim == 2 and logits.shape[1] == 1:
            return _probe(widened(logits), generators)
        mask = _positions(logits, batch)
        uniform = torch.cat(
            [torch.rand(int(row.sum()), generator=of) for row, of in zip(mask, generators, strict=True)]
        ).to(logits.device)
        return _summed(logits, mask, lambda some, at: _draw(some, uniform[at].to(some)), temperature)

    return loss


def true_labels() -> Loss:
    """The data's own next token: what a decoder predicts at a position is the token after it.

    An encoder-decoder is asked for `labels` at the positions where they stand, as it was for transformers'
    own loss, and so is a classifier that is given some.

    Raises:
        EckartError: when called, a model without logits, or one that needs `labels` and has none.
    """

    def loss(output: Any, batch: Batch) -> Tensor:
        logits = getattr(output, "logits", None)
        if logits is None:
            raise EckartError("this model has no logits, so the data has no labels for it: sample them")
        if "decoder_input_ids" in batch or logits.ndim == 2:
            if "labels" not in batch:
                raise EckartError("the data has no labels for this model: sample them")
            labels = batch["labels"]
        else:
            labels = next_tokens(batch["input_ids"], masks_of(batch)[0])
            labels = labels.masked_fill(~_positions(logits, batch).to(labels.device), IGNORED)
        kept = labels != IGNORED
        known = labels[kept].to(logits.device)
        return _summed(logits, kept, lambda some, at: known[at])

    return loss


Labels = Callable[[Tensor, Tensor], Tensor]
"""`labels(logits, at)` of some rows of those that are asked, `(rows, words)`, and their places among them."""


def _summed(logits: Tensor, asked: Tensor, labels: Labels, temperature: float = 1.0) -> Tensor:
    """The summed cross-entropy of the logits that are asked, divided by a temperature.

    Args:
        asked: which, a mask of their leading dimensions.
    """
    rows = asked.to(logits.device).flatten().nonzero().squeeze(1)
    loss: Tensor = _CrossEntropy.apply(logits.flatten(0, -2), rows, labels, temperature)
    return loss


class _CrossEntropy(torch.autograd.Function):
    """A few rows at a time: of a large vocabulary a tensor of logits is the largest that there is.

    All that is kept of them is their gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, labels: Labels, temperature: float) -> Tensor:
        loss = logits.new_zeros((), dtype=torch.float32 if logits.itemsize < 8 else logits.dtype)
        back = torch.zeros_like(logits)
        places = torch.arange(len(rows), device=rows.device)
        for some, at in zip(rows.split(ROWS), places.split(ROWS), strict=True):
            scaled = widened(logits.index_select(0, some)) / temperature
            drawn = labels(scaled, at)[:, None]
            said = scaled.log_softmax(-1)
            loss -= said.gather(1, drawn).sum()
            change = said.exp_().scatter_add_(1, drawn, -torch.ones_like(drawn, dtype=said.dtype))
            back.index_copy_(0, some, change.div_(temperature).to(back.dtype))
        ctx.save_for_backward(back)
        return loss

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None, None]:
        (back,) = ctx.saved_tensors
        return back.mul_(given[0]), None, None, None


def _positions(logits: Tensor, batch: Batch) -> Tensor:
    """Where logits are asked, on the CPU: at a decoder's real tokens, or once for a window.

    Of chats whose answers count, where the model says them.
    """
    if logits.ndim == 2:
        return torch.ones(len(logits), dtype=torch.bool)
    real = masks_of(batch)[-1].cpu()
    return real & saying(batch[SAID]).cpu() if SAID in batch else real


def _generators(batch: Batch, seed: int) -> list[torch.Generator]:
    """One for each window, from the seed and the window's real tokens."""
    digests = [hashlib.blake2b(str(seed).encode(), digest_size=8) for _ in batch["input_ids"]]
    ids = [batch[key].cpu() for key in ("input_ids", "decoder_input_ids") if key in batch]
    for tokens, mask in zip(ids, masks_of(batch), strict=True):
        for row, real, digest in zip(tokens, mask.cpu(), digests, strict=True):
            digest.update(b";" + row[real].numpy().tobytes())
    return [
        torch.Generator().manual_seed(int.from_bytes(digest.digest(), "little") >> 1) for digest in digests
    ]


def _draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """A label for each row of `softmax(logits)`, where `uniform` cuts the distribution function."""
    heights = logits.softmax(-1).cumsum(-1)
    drawn = torch.searchsorted(heights, uniform[:, None] * heights[:, -1:], right=True)
    # Where rounding puts the cut at the very top, the answer is the last token that has some probability.
    last = torch.searchsorted(heights, heights[:, -1:].contiguous())
    # A row that is not finite has no distribution, and the loss says so.
    return torch.minimum(drawn, last).clamp(max=logits.shape[1] - 1).squeeze(1)


def _embedding(output: Any, batch: Batch, head: Head | None) -> Tensor:
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None:
        raise EckartError(
            f"{type(output).__name__} has neither logits nor a last hidden state: nothing to differentiate"
        )
    if head is not None:
        return normalize(widened(head(hidden, masks_of(batch)[-1].to(hidden.device).long())), dim=-1)
    mask = masks_of(batch)[-1].to(hidden.device)[..., None]
    # A sum has the direction of the mean, and the length goes.
    return normalize((widened(hidden) * mask).sum(1), dim=-1)


def _probe(answers: Tensor, generators: list[torch.Generator]) -> Tensor:
    """`Σ r · answer` over windows, `answers (windows, width)`."""
    directions = torch.stack([torch.randn(answers.shape[1], generator=one) for one in generators])
    return (answers * directions.to(answers)).sum()
