"""The options of a verb where people look for them in Python: in its signature and its docstring."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from textwrap import fill
from typing import Any, TypeVar

from eckart.recipes import verbs
from eckart.recipes.calling import checked

Verb = TypeVar("Verb", bound=Callable[..., Any])


def takes(kind: type) -> Callable[[Verb], Verb]:
    """Show in a verb's signature and docstring the options that it takes by `**options`."""

    def show(verb: Verb) -> Verb:
        called = wraps(verb)(checked()(verb))

        own = inspect.signature(verb).parameters.values()
        found = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=option.default,
                annotation=verbs.hints(kind)[name].__origin__,
            )
            for name, option in verbs.fields(kind).items()
        ]
        plain = [each for each in own if each.kind is not inspect.Parameter.VAR_KEYWORD]
        called.__signature__ = inspect.Signature([*plain, *found])  # type: ignore[attr-defined]
        before, mark, after = (inspect.getdoc(verb) or "").partition("\n\nRaises:")
        called.__doc__ = f"{before}\n\n{page(kind)}{mark}{after}"
        return called  # type: ignore[return-value]

    return show


def page(kind: type) -> str:
    """A list of the options in their groups, a few lines each."""
    lines = []
    for title, group in verbs.GROUPS[kind].items():
        lines += ["", f"{title.capitalize()}:"]
        for name, option in verbs.fields(group).items():
            default = "" if option.default in (None, ()) else f" Default {option.default!r}."
            words = f"{name}: {option.help}{default}"
            lines.append(fill(words, 106, initial_indent="    ", subsequent_indent="        "))
    return "\n".join(lines).strip()
