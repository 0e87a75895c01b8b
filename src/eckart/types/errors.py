"""What goes wrong in a way that a person can act on."""

from __future__ import annotations


class EckartError(Exception):
    """Something a person can act on: names the thing, says why, and what to do."""

    exit_code = 1


class UsageError(EckartError):
    """The request itself is wrong, before any work was started."""

    exit_code = 2
