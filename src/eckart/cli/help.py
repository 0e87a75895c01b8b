"""What a command says of itself, and of a line that it does not take."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from eckart.cli.saying import say

WIDTH = 110
"""Columns of a help page at most."""
OUTPUT = "Output"
"""The title of the options that every command has."""
KINDS = {" <str>": "TEXT", " <int>": "INTEGER", " <float>": "NUMBER"}
"""What stands for a value of a kind, by what Typer has for it."""
EXAMPLES: dict[str, tuple[str, ...]] = {}
"""Of each command, shown below its help's first lines."""

Wrong: Any = typer.BadParameter.__base__
"""What is raised of a line that is not one of this program's: Typer's, or click's."""


class Grouped(TyperCommand):
    """A command whose help shows first what most people need, and the rest under the titles of its groups."""

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what it does, and what to type."""
        super().format_help_text(ctx, formatter)
        examples = EXAMPLES.get(str(self.name), ())
        if examples:
            with formatter.section("Example" if len(examples) == 1 else "Examples"):
                for line in examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or plain
            words, text = record
            for kind, shown in KINDS.items():
                words = words.replace(kind, "" if plain == "Arguments" else f" {shown}")
            sections.setdefault(title, []).append((words, text))
        # What every command has comes last.
        sections |= {OUTPUT: sections.pop(OUTPUT, [])}
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class Commands(TyperGroup):
    """All commands; a line that none takes is one short message, with what was meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command of a name, or the nearest name."""
        if args and self.get_command(ctx, args[0]) is None:
            raise Wrong(f"no command {args[0]}{_meant(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write what each is for, whole."""
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, _first_line(self.get_command(ctx, name))) for name in self.list_commands(ctx)]
            )

    def main(self, *arguments: Any, **more: Any) -> Any:
        """Run, and end."""
        if not more.get("standalone_mode", True):
            return super().main(*arguments, **more)
        more.setdefault("prog_name", "eckart")
        try:
            code = super().main(*arguments, **{**more, "standalone_mode": False})
        except Wrong as error:
            say(f"eckart: {in_words(error)}")
            sys.exit(2)
        sys.exit(code if isinstance(code, int) else 0)


def in_words(error: Any) -> str:
    """What is wrong with a line, the option as it is written, and the nearest name."""
    context, parameter = error.ctx, getattr(error, "param", None)
    where = "" if context is None else f" ({context.command_path} -h lists them)"
    if name := getattr(error, "option_name", None):
        if not hasattr(error, "possibilities"):
            return f"{name} needs a value{where}"
        return f"no option {name}{_meant(name, [] if context is None else _flags(context))}{where}"
    if parameter is not None:
        option = parameter.param_type_name == "option"
        named = max(parameter.opts, key=len) if option else parameter.metavar or parameter.name.upper()
        if hasattr(error, "param_type"):
            return f"{named} is missing{where}"
        return f"{named} {error.message}"
    message = error.format_message().strip()
    return f"{message[0].lower()}{message[1:].rstrip('.')}{where if context is not None else ''}"


def _first_line(command: Any) -> str:
    return str(command.help or "").strip().partition("\n")[0]


def _flags(context: Any) -> list[str]:
    return [
        flag for each in context.command.get_params(context) for flag in (*each.opts, *each.secondary_opts)
    ]


def _meant(name: str, names: list[str]) -> str:
    near = get_close_matches(name, names, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""
