"""What is compared: methods with other values on their axes, at the same sizes, as recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eckart import recipes, structures
from eckart.recipes import making
from eckart.recipes.names import choices_of
from eckart.recovery.settings import LENGTHS, Training, make_training
from eckart.types import Recipe, UsageError


def read_sizes(keep: Sequence[float]) -> list[float]:
    """The sizes, of which there is one at least and none twice."""
    sizes = [float(size) for size in keep]
    if not sizes:
        raise UsageError("--keep is empty: name a size at least, as 0.9,0.8")
    _refuse_twice("keep", [f"{size:g}" for size in sizes])
    return sizes


def read_methods(
    methods: Sequence[str] | None, sizes: list[float], shared: dict[str, Any], trained: bool
) -> dict[str, list[Recipe]]:
    """The recipes of each method by its label: at every size, or where it has one of its own at that."""
    if methods is None:
        making.make_recipe(method="svd", keep=sizes[0], **shared)
        methods = [
            name
            for name, row in recipes.METHODS.items()
            if _allowed(name, shared)
            and not row.by_hand
            and (trained or row.recovery not in recipes.SELECTIONS)
        ]
    labels = [":".join(part.strip() for part in method.split(":")) for method in methods]
    if not labels:
        raise UsageError("--methods is empty: name a row of the catalogue at least (eckart methods)")
    _refuse_twice("method", labels)
    found = {}
    for label in labels:
        choices = choices_of(label, structures.replacements())
        own = choices.pop("keep", None)
        wanted = sizes if own is None else [own]
        found[label] = made = [making.make_recipe(**choices, **shared, keep=size) for size in wanted]
        if made[0].selection is not None and not trained:
            raise UsageError(
                f"{label} trains: say how long (--tokens or --epochs), and every method is trained as long"
            )
    if trained and shared["data"] is None:
        raise UsageError("training needs something to learn from: give --data FILE")
    return found


def read_training(training: Mapping[str, Any] | None, max_length: int, in_words: bool) -> Training | None:
    """How every model is trained; `None` where nothing was said of that.

    Args:
        max_length: tokens in a window at most, unless the training says it.
        in_words: whether it was said option by option: then how long must be said.
    """
    if training is None:
        return None
    if in_words and not any(name in training for name in LENGTHS):
        raise UsageError("say how long to train: --tokens or --epochs")
    return make_training(**{"max_length": max_length, **training})


def _allowed(name: str, shared: dict[str, Any]) -> bool:
    """Whether the data allow a row of the catalogue."""
    try:
        making.make_recipe(method=name, keep=1.0, **shared)
    except UsageError:
        return False
    return True


def _refuse_twice(kind: str, names: list[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{kind} {twice} is named twice")
