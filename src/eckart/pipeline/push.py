"""A finished folder to the hub."""

from __future__ import annotations

from pathlib import Path

from eckart.integrations import hub
from eckart.integrations.hub import Pushed, require_pushable
from eckart.recipes.calling import checked

__all__ = ["Pushed", "push", "require_pushable"]


@checked()
def push(out: str | Path, name: str, *, private: bool = False) -> Pushed:
    """Upload a folder to the hub of Hugging Face, where `from_pretrained(name)` loads it.

    It is one commit: the repository has all of it or nothing. What the hub has already is not sent again, so
    a push that was interrupted goes on. The card says what was done to the model.

    Args:
        out: a folder that `compress`, `recover` or `export` wrote.
        name: of the repository, as `me/small`; it is made where there is none.
        private: whether a repository that is made is for its owner alone.

    Raises:
        UsageError: no model is in the folder, nobody is logged in, or the name is not theirs.
        EckartError: it did not arrive.
    """
    folder = Path(out)
    hub.require_model(folder)
    require_pushable(name)
    return hub.push(folder, name, private)
