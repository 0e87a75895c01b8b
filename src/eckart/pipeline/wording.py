"""Errors in one line, for a table or a process that asked."""

from __future__ import annotations

from eckart.types import EckartError


def said(error: Exception) -> str:
    """An error in one line: that of a user as it stands, any other with its name."""
    if isinstance(error, EckartError):
        return str(error)
    words = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}: {words}" if words else f"unexpected {type(error).__name__}"
