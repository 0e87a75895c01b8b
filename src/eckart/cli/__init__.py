"""The command line: the verbs, the options they share, what people see, and how a command ends."""

from eckart.cli.commands import app, main

__all__ = ["app", "main"]
