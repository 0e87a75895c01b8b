"""What goes wrong in a way that a person can act on."""

from __future__ import annotations

from difflib import get_close_matches


class EckartError(Exception):
    """Something a person can act on: names the thing, says why, and what to do."""

    exit_code = 1


class UsageError(EckartError):
    """The request itself is wrong, before any work was started."""

    exit_code = 2


def unknown(kind: str, name: str, known: object) -> str:
    """An unknown name, the nearest known one, and all there are."""
    names = list(known)  # type: ignore[call-overload]
    near = get_close_matches(name, names, 1, 0.4)
    meant = f"; did you mean {near[0]}?" if near else ";"
    return f"unknown {kind} {name!r}{meant} there are: {', '.join(names)}"


def in_one_line(error: Exception) -> str:
    """An error in one line: that of a user as it stands, any other with its name."""
    if isinstance(error, EckartError):
        return str(error)
    words = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {words}" if words else f"unexpected {type(error).__name__}"


class ExistsError(UsageError):
    """Something is already where a folder is to appear.

    Attributes:
        gives_way: whether it may be overwritten.
    """

    def __init__(self, words: str, gives_way: bool = False) -> None:
        super().__init__(words)
        self.gives_way = gives_way
