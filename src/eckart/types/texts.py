"""Data as text, how much of it is taken, and telling somebody how far the work is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from eckart.types.errors import UsageError

Track = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""Passes `items` through while telling somebody: `track(items, description, total)`."""

SAMPLES = 512
"""Windows of the data to calibrate on, unless told otherwise or the data has fewer."""

SAMPLE_TOKENS = 32768
"""Where so many windows have fewer tokens than this, more are taken: sentences are short."""

On = Literal["answers", "all"]
"""What the loss of a chat is of: the tokens that the assistant says, or every one."""
ON = get_args(On)

MAX_LENGTH = 512
"""Tokens in a window at most, unless told otherwise."""


@dataclass(frozen=True)
class Message:
    """What one side of a chat says.

    Attributes:
        role: `system`, `user`, `assistant`, or another that a template knows.
        learned: whether an answer is one to learn.
    """

    role: str
    content: str
    learned: bool = True


@dataclass(frozen=True)
class Text:
    """One piece of data: running text, a prompt with its completion, or a chat.

    Attributes:
        messages: of a chat; prompt and completion are empty until a model's template has made text of it.
        answers: of a chat that is text by now, where in it the assistant speaks.
        whole: of a chat, whether all of it counts, and not what the assistant says alone.
    """

    prompt: str
    completion: str
    messages: tuple[Message, ...] = ()
    answers: tuple[tuple[int, int], ...] | None = None
    whole: bool = False

    @property
    def text(self) -> str:
        """All of it; of a chat before its template, what its sides say."""
        if self.messages and self.answers is None:
            return "\n".join(message.content for message in self.messages)
        return self.prompt + self.completion


def require_on(on: str) -> None:
    """Raises UsageError where there is no such choice of what counts of a chat."""
    if on not in ON:
        raise UsageError(f"--on {on}: of a chat its answers count, or all of it")


def silent(items: Iterable[Any], description: str, total: int) -> Iterable[Any]:
    """A `Track` that tells nobody."""
    return items
