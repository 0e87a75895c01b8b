"""What the windows of the data are for: calibrated on, differentiated, fitted to, held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from eckart.calibrate import count_tokens
from eckart.calibrate.observing import backward_tokens
from eckart.data.splitting import HELD_OUT, hold_out
from eckart.estimate.time import Reading
from eckart.evaluation import Reference
from eckart.evaluation.divergence import LEAST_WINDOWS
from eckart.model import text
from eckart.recipes import making
from eckart.recipes.efforts import Effort
from eckart.types import SAMPLE_TOKENS, SAMPLES, Recipe, Text, UsageError

HELD_OUT_TOKENS = 8192
REFIT_TOKENS = 32768


@dataclass
class Divided:
    """The windows of a recipe's data; none where it needs none.

    Attributes:
        calibrating: what moments are summed over.
        held: what nothing is calibrated on, and the result is measured on.
        chooses: whether something is chosen by what is measured there.
        effort: how much is done with them.
        notes: what a user should know.
    """

    model: Any
    tokenizer: Any
    effort: Effort
    calibrating: list[text.Window] = field(default_factory=list)
    held: list[text.Window] = field(default_factory=list)
    chooses: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def gradient_windows(self) -> int:
        """How many of those that are calibrated on are differentiated."""
        return _count(self.calibrating, self.effort.gradient_tokens)

    @property
    def tokens(self) -> int | None:
        """Real tokens that are calibrated on; `None` without data."""
        return count_tokens(self._batches(self.calibrating, 1)) if self.calibrating else None

    @property
    def reading(self) -> Reading:
        """Tokens by what they are for."""
        every, held = _tokens(self.calibrating), _tokens(self.held)
        return Reading(
            calibrating=every,
            fitting=min(every, REFIT_TOKENS),
            held=min(held, HELD_OUT_TOKENS),
        )

    def fitting(self, tokens: int | None = None) -> list[text.Batch]:
        """What a refit is fitted to, in batches of so many tokens."""
        if not self.calibrating:
            return []
        return self._batches(_spread(self.calibrating, REFIT_TOKENS), tokens)

    def imitated(self, step: int) -> list[text.Window]:
        """Of what is calibrated on, what the cut model learns from.

        Args:
            step: tokens of a step. Of plain text that a decoder reads in longer windows their beginnings are
                taken, so that there are more steps, unless there is time for all of it twice.
        """
        windows, most = self.calibrating, self.effort.imitated_tokens
        cut = text.is_causal(self.model) and all(window.said is None for window in windows)
        if cut and 2 * _tokens(windows) > most:
            windows = [text.Window(window.ids[:step]) for window in windows]
        return _spread(windows, most)

    def held_out(self) -> list[text.Batch]:
        """What is measured on."""
        if not self.held:
            return []
        return self._batches(_spread(self.held, HELD_OUT_TOKENS), backward_tokens(self.model))

    def reference(self) -> Reference | None:
        """What the model says now on what is held out."""
        return Reference(self.held_out(), self.model) if self.held else None

    def _batches(self, windows: Sequence[text.Window], tokens: int | None) -> list[text.Batch]:
        size: dict[str, Any] = {} if tokens is None else {"batch_tokens": tokens}
        said = text.answers([*self.calibrating, *self.held])
        return text.batches(self.model, self.tokenizer, windows, said=said, **size)


def divide(model: Any, tokenizer: Any, recipe: Recipe, texts: Sequence[Text]) -> Divided:
    """Cut the texts into windows, and say what each is for.

    Raises:
        UsageError: there are data and no tokenizer.
    """
    divided = Divided(model, tokenizer, making.effort_of(recipe))
    if not making.needs_data(recipe):
        return divided
    if tokenizer is None:
        raise UsageError("a loaded model with data needs its tokenizer too: pass tokenizer=")
    limit, least = (recipe.samples, 0) if recipe.samples else (SAMPLES, SAMPLE_TOKENS)
    # What an assistant says nothing in has nothing that counts.
    stream = filter(text.counts, text.stream(model, tokenizer, texts, recipe.max_length))
    windows = text.taken(stream, limit, least)
    text.require_readable(model, tokenizer, windows)
    divided.chooses = making.needs_held_out(recipe)
    # What is not calibrated on costs nothing; a choice is measured on a share of what would be.
    more = [] if divided.chooses else text.taken(stream, max(LEAST_WINDOWS, len(windows) // HELD_OUT))
    kept, held = (windows, more) if len(more) >= LEAST_WINDOWS else hold_out(windows)
    if divided.chooses and not held:
        divided.calibrating = divided.held = windows
        divided.notes.append(
            f"{len(windows)} windows of data are too few to hold some out: ranks were chosen on the data "
            "that was calibrated on"
        )
    elif divided.chooses or len(held) >= LEAST_WINDOWS:
        divided.calibrating, divided.held = kept, held
    else:
        divided.calibrating = windows
        divided.notes.append(
            f"{len(windows)} windows of data are too few to hold some out: what was lost was not measured"
        )
    return divided


def _tokens(windows: Sequence[text.Window]) -> int:
    return sum(len(window.ids) for window in windows)


def _count(windows: Sequence[text.Window], tokens: int) -> int:
    """How many windows, spread over all, have about so many tokens."""
    mean = _tokens(windows) / len(windows)
    return min(len(windows), max(1, round(tokens / mean)))


def _spread(windows: Sequence[text.Window], tokens: int) -> list[text.Window]:
    """About so many tokens of windows, spread over all."""
    count = _count(windows, tokens)
    return [windows[index * len(windows) // count] for index in range(count)]
