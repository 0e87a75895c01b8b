"""What a verb is called with in Python: every argument of its type, or an error that names it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, wraps
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from eckart.recipes import reading, verbs
from eckart.types import UsageError

Verb = TypeVar("Verb", bound=Callable[..., Any])

MODEL, TOKENIZER = "model", "tokenizer"
KINDS: dict[Any, str] = {
    os.PathLike: "a path",
    Mapping: "a mapping",
    Callable: "a function",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    Sequence: "a list",
    str: "text",
}
"""Types of arguments that are no options, as people say them."""


def checked(kind: type | None = None) -> Callable[[Verb], Verb]:
    """Have a verb called with what it takes alone.

    Args:
        kind: its options, where they are arguments: each is then as `reading.given` makes it.

    Raises:
        UsageError: an argument that is unknown, missing or of another type; the verb was not called.
    """

    def guard(verb: Verb) -> Verb:
        own = inspect.signature(verb).parameters

        @wraps(verb)
        def called(*given: Any, **named: Any) -> Any:
            found = _by_name(verb.__name__, own, kind, given, named)
            for name, value in found.items():
                if kind is not None and name in verbs.fields(kind):
                    found[name] = reading.checked(kind, name, value)
                elif name in own:
                    _require(name, value, _hints(verb)[name])
            return verb(**found)

        return called  # type: ignore[return-value]

    return guard


def _by_name(
    verb: str,
    own: Mapping[str, inspect.Parameter],
    kind: type | None,
    given: Sequence[Any],
    named: Mapping[str, Any],
) -> dict[str, Any]:
    """All arguments by their names."""
    places = [name for name, each in own.items() if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    if len(given) > len(places):
        raise UsageError(
            f"{verb}() takes {' and '.join(places)} by their places, and everything else by name: "
            f"{len(given)} came without a name"
        )
    found = dict(zip(places, given, strict=False))
    if twice := next((name for name in named if name in found), None):
        raise UsageError(f"{verb}() was given {twice} twice: by its place and by name")
    rest = next((name for name, each in own.items() if each.kind is inspect.Parameter.VAR_KEYWORD), None)
    # A verb that takes the rest and says nothing of them looks at them itself.
    known = None if rest and kind is None else {**own, **(verbs.fields(kind) if rest and kind else {})}
    for name in named:
        if known is not None and name not in known:
            raise UsageError(reading.unknown_name("option", name, known))
    found |= named
    # An option that is `None` is not given.
    options = verbs.fields(kind) if kind else {}
    found = {name: value for name, value in found.items() if value is not None or name not in options}
    for name, each in own.items():
        plain = each.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        if plain and each.default is inspect.Parameter.empty and name not in found:
            raise UsageError(f"{verb}() needs {name}")
    return found


@cache
def _hints(verb: Callable[..., Any]) -> dict[str, Any]:
    return get_type_hints(verb)


def _require(name: str, value: Any, hint: Any) -> None:
    """Raises UsageError where a value is of none of the types that its hint names."""
    if name == TOKENIZER and value is not None and not callable(value):
        raise UsageError(f"{name} is of type {type(value).__name__}: give a tokenizer of transformers")
    several = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = [get_origin(each) or each for each in several]
    if Any in kinds or any(_is(value, each) for each in kinds):
        return
    if name == MODEL and hasattr(value, "config"):
        kind = type(value).__name__
        raise UsageError(f"{name} is of type {kind}: give its folder or hub id, not a {kind} in memory")
    words = [KINDS.get(os.PathLike if _is_path(each) else each) for each in kinds if each is not NoneType]
    wanted = " or ".join(
        dict.fromkeys(word for word in words if word and not (word == "text" and "a path" in words))
    )
    raise UsageError(f"{name} is of type {type(value).__name__}: give {wanted}")


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, os.PathLike)


def _is(value: Any, kind: Any) -> bool:
    if kind is NoneType:
        return value is None
    if get_origin(Callable[..., Any]) is kind:
        return callable(value)
    if _is_path(kind):
        return isinstance(value, os.PathLike)
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float and isinstance(value, int):
        return True
    return isinstance(value, kind)
