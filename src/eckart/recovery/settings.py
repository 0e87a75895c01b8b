"""What a training run is asked to do: every default is here. No torch."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from eckart.types import MAX_LENGTH, UsageError

Schedule = Literal["cosine", "linear", "constant"]
Precision = Literal["float32", "bf16"]

FACTORS, ALL = "factors", "all"
"""What is trained: the factors alone, or every parameter; any other word is a method of peft."""

LENGTHS = ("steps", "tokens", "epochs")


class Training(BaseModel):
    """The settings of one training run.

    Attributes:
        steps, tokens, epochs: how long, by exactly one of them; one epoch unless told otherwise. A run ends
            with a whole step.
        batch: windows in a step, over all processes and all the passes that are accumulated.
        accumulate: passes in a step: less memory, the same result.
        learning_rate: at the end of the warmup. 2e-4 is for factors: half of each singular value is on
            either side, so that their entries are larger than a dense weight's and bear larger steps. Where
            all is trained, a lower one is safer.
        schedule: what follows the warmup, down to 0, or `constant`.
        warmup: share of the steps in which the learning rate rises.
        clip: the norm that gradients are scaled down to.
        max_length: tokens in a window at most.
        precision: `bf16` computes under autocast; the weights are float32 either way.
        gradient_checkpointing: compute activations again rather than keep them.
        train: `factors`, `all`, or a method of peft, as `lora`.
        adapter_rank, adapter_alpha: of peft's methods that have them.
        end: whether a completion ends with the tokenizer's end of text, so that the model learns to stop.
        save_every: steps between checkpoints; default a tenth of all, at most 500.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = None
    tokens: int | None = None
    epochs: float | None = None
    batch: int = 16
    accumulate: int = 1
    learning_rate: float = 2e-4
    schedule: Schedule = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.0
    clip: float = 1.0
    seed: int = 0
    max_length: int = MAX_LENGTH
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    train: str = FACTORS
    adapter_rank: int = 16
    adapter_alpha: float = 32.0
    end: bool = True
    save_every: int | None = None

    @property
    def by_peft(self) -> bool:
        """Whether adapters are trained."""
        return self.train not in (FACTORS, ALL)


_POSITIVE: dict[str, Callable[[float], bool]] = {
    **dict.fromkeys(
        ("steps", "tokens", "batch", "accumulate", "max_length", "save_every", "adapter_rank"),
        lambda value: value >= 1,
    ),
    **dict.fromkeys(("epochs", "learning_rate", "clip", "adapter_alpha"), lambda value: 0 < value < inf),
    "weight_decay": lambda value: 0 <= value < inf,
    "warmup": lambda value: 0 <= value < 1,
    "seed": lambda value: 0 <= value < 2**32,
}
_RANGES = {"weight_decay": "0 or more", "warmup": "a share from 0 to below 1", "seed": "0 or more"}


def make_training(**given: Any) -> Training:
    """Settings from what was given; what is `None` is as it is by default.

    Raises:
        UsageError: a value that is out of range or does not exist, or more than one of steps, tokens, epochs.
    """
    given = {name: value for name, value in given.items() if value is not None}
    lengths = [name for name in LENGTHS if name in given]
    if len(lengths) > 1:
        said = " and ".join(f"--{name}" for name in lengths)
        raise UsageError(f"say how long to train by one of --steps, --tokens, --epochs: {said} were given")
    for name, value in given.items():
        if name in _POSITIVE and not _POSITIVE[name](value):
            least = _RANGES.get(name, "above 0")
            raise UsageError(f"--{name.replace('_', '-')} {value:g}: it is {least}")
    for name, known in (("schedule", get_args(Schedule)), ("precision", get_args(Precision))):
        if given.get(name, known[0]) not in known:
            raise UsageError(f"--{name} {given[name]}: it is one of {', '.join(known)}")
    settings = Training(**(given if lengths else {"epochs": 1.0, **given}))
    if settings.batch % settings.accumulate:
        raise UsageError(
            f"--batch {settings.batch} cannot be made of --accumulate {settings.accumulate} equal passes"
        )
    return settings
