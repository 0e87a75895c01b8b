"""The training: who learns, from what, how fast, and how it is undone."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eckart import checkpoint
from eckart.calibrate.modes import evaluating, recomputing, uncached
from eckart.compression.dividing import Divided
from eckart.compression.imitation.answers import Answers
from eckart.estimate.time import imitated_tokens
from eckart.linalg import rounded_at_random
from eckart.model import targets, text
from eckart.recipes.efforts import Effort
from eckart.recovery import learning
from eckart.recovery.distillation import Distillation
from eckart.recovery.settings import Training
from eckart.recovery.windows import Collator, Example
from eckart.structures import StructuredLinear
from eckart.types import Track

STEP_TOKENS = 256
"""What it needs is steps: half as many, of twice as many tokens, do less in the same time."""
MOST_RATE, HALVINGS = 1.6e-3, 14
"""What the learning rate is sought in: that of one model is ten times that of another."""
UNTRAINED = "not trained to imitate the dense model"


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
        taken = divided.imitated(STEP_TOKENS)
        answers = Answers(model, divided.tokenizer, taken, by_rows=True)
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
        with (
            in_float32(model),
            tempfile.TemporaryDirectory() as work,
            recomputing(model, self._blocks(model), training.batch * max(map(len, self.examples))),
        ):
            learning.choose_outputs(model)
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

    @staticmethod
    def _blocks(model: Any) -> list[Any]:
        replaced = [name for name, module in model.named_modules() if isinstance(module, StructuredLinear)]
        return targets.stacks_of(model, replaced)

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
    @contextmanager
    def undoable(model: Any) -> Iterator[Callable[[], None]]:
        """Meanwhile what the training changes waits on disk, to be had again by a call."""
        with checkpoint.Spill(Path(tempfile.gettempdir()), limit=0) as waiting:
            weights = {name: each.detach().clone() for name, each in learning.output_weights(model).items()}
            for each in weights.values():
                waiting.away(each)

            @torch.no_grad()
            def undo() -> None:
                for name, each in model.named_parameters():
                    if name in weights:
                        waiting.back(weights[name])
                        each.copy_(weights[name])

            yield undo


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
