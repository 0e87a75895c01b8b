"""Options of commands: made from the groups of `recipes`, and those that every command has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand

from eckart.cli.saying import say
from eckart.recipes import reading, verbs
from eckart.recipes.options import Option

WIDTH = 110
"""Columns of a help page at most."""


def filled(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """An empty value is a mistake, as of a shell variable that is not set: it never means the default."""
    if value is not None and not value.strip():
        say(f"eckart: {parameter.metavar or parameter.opts[0]} is empty")
        raise typer.Exit(2)
    return value


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or pocket.", callback=filled)
]
ModelOrRecipe = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL", help="A folder, a hub id, or pocket; default that of --recipe.", callback=filled
    ),
]
Out = Annotated[
    str, typer.Option("--out", "-o", help="Folder to save in; it must not exist.", callback=filled)
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="Options from a file of YAML or JSON, or from what was saved before; those given here win.",
        callback=filled,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Grouped(TyperCommand):
    """A command whose help shows first what most people need, and the rest under the titles of its groups."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None:
                continue
            plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
            title = getattr(parameter, "rich_help_panel", None) or plain
            sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def takes(kind: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a verb: it is called with those that were given, by their names."""

    def give(command: Callable[..., None]) -> Callable[..., None]:
        def called(**values: Any) -> None:
            command(
                **{
                    name: value
                    for name, value in values.items()
                    if name not in found or (value is not None and value != [])
                }
            )

        found = {
            name: inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if option.required else None,
                annotation=_annotated(kind, name),
            )
            for name, option in verbs.fields(kind).items()
        }
        own = inspect.signature(command, eval_str=True).parameters.values()
        plain = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in own
            if each.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        first = [each for each in plain if each.annotation not in (Json, Debug)]
        last = [each for each in plain if each.annotation in (Json, Debug)]
        parameters = [*first, *found.values(), *last]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        return called

    return give


def _annotated(kind: type, name: str) -> Any:
    """An option as Typer reads it."""
    option, of = verbs.fields(kind)[name], verbs.kind_of(verbs.hints(kind)[name])
    group = next(title for title, group in verbs.GROUPS[kind].items() if name in verbs.fields(group))
    more: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {}
    if option.parse is not None:
        more["parser"] = _parser(option, of)
    if get_args(of):
        of = list[str] if option.repeated else str
        more.setdefault("metavar", "TEXT" if option.repeated else "LIST")
    return Annotated[
        of if option.required else of | None,
        typer.Option(
            verbs.flag(kind, name),
            help=f"{option.help}{_default(option.default)}",
            rich_help_panel=None if option.common else group.capitalize(),
            **more,
        ),
    ]


def _parser(option: Option, of: Any) -> Callable[[str], Any]:
    """What reads an option's value, and says what it should have been where it is none."""

    def parse(value: str) -> Any:
        assert option.parse is not None
        try:
            return option.parse(value)
        except ValueError:
            raise typer.BadParameter(f"{value}: not {reading.words_of(option, of)}") from None

    parse.__name__ = option.metavar or "value"
    return parse


def _default(value: Any) -> str:
    if value in (None, False, ()):
        return ""
    if value is True:
        return "  [default: yes]"
    shown = ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return f"  [default: {shown}]"
