"""Options of commands: made from the groups of `recipes`, and those that every command has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from eckart import data, folders, recipes
from eckart.cli.ending import errors
from eckart.cli.help import EXAMPLES, OUTPUT
from eckart.cli.saying import print_json, say, settle
from eckart.model import finding
from eckart.recipes import names, reading, verbs
from eckart.recipes.efforts import EFFORTS
from eckart.recipes.options import Option
from eckart.recovery import processes
from eckart.types import ON, ExistsError, UsageError


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
SHARED = {
    "as_json": Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output.", rich_help_panel=OUTPUT)
    ],
    "quiet": Annotated[
        bool,
        typer.Option(
            "--quiet", "-q", help="No notes and no progress: results and errors.", rich_help_panel=OUTPUT
        ),
    ],
    "verbose": Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Say what each piece of work took.", rich_help_panel=OUTPUT),
    ],
    "log": Annotated[
        str | None,
        typer.Option(
            "--log",
            metavar="FILE",
            help="Write all that is said to a file too, with the time.",
            callback=filled,
            rich_help_panel=OUTPUT,
        ),
    ],
    "debug": Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)
    ],
}


_APPEARING = "Let a folder that Eckart wrote give way to the new one, once that is complete."
_GROWING = "Let a folder of another request, that Eckart wrote, give way once the first result is there."
OVERWRITING = {
    **dict.fromkeys(("analyze", "bases", "compress", "export", "recover", "report"), _APPEARING),
    **dict.fromkeys(("compare", "evaluate", "sweep"), _GROWING),
}
"""Commands that write a folder, with when one that is there gives way. What those of the second kind had
begun for the same request is gone on with."""
_WRITES = ("out", "save", "recipe", "push_to_hub")
"""Options that name no file which is read while the work lasts."""
_MODELS = ("model", "other", "against", "teacher")
"""Arguments and options that name a model."""


CHOICES = {
    "method": list(recipes.METHODS),
    "methods": list(recipes.METHODS),
    "metric": list(recipes.METRICS),
    "structure": list(names.STRUCTURES),
    "allocation": list(names.ALLOCATIONS),
    "recovery": list(names.RECOVERIES),
    "task": list(names.TASKS),
    "effort": list(EFFORTS),
    "quantize": list(names.QUANTIZE),
    "goal": list(names.GOALS),
    "of": list(names.OF),
    "on": list(ON),
    "dtype": ["auto", "float32", "bfloat16", "float16"],
    "device": ["cpu", "cuda"],
}
"""What a shell may complete the value of an option to, as far as it is known without torch."""


class Failed(dict[str, Any]):
    """What a command found, where that is a failure: it is shown like any other answer, and ends with 1."""


Command = Callable[..., dict[str, Any]]


def verb(kind: type | None, *examples: str) -> Callable[[Command], Callable[..., None]]:
    """A function that shows what it did and returns it for `--json`, as a command.

    Args:
        kind: the options of the verb, which it is called with by name where they were given.
        examples: lines that a person may type, for its help.
    """

    def give(command: Command) -> Callable[..., None]:
        def called(**values: Any) -> None:
            shared = {name: values.pop(name) for name in SHARED}
            with errors(shared["debug"]):
                debug = shared.pop("debug")
                settle(**shared, leads=processes.leads())
                if "debug" in own:
                    values["debug"] = debug
                given = {
                    name: value
                    for name, value in values.items()
                    if name not in found or (value is not None and value != [])
                }
                try:
                    given |= _looked_at(kind, given)
                    with _overwriting(given.pop("overwrite", False), given):
                        if when is _APPEARING:
                            _refuse_existing(given)
                        answer = command(**given)
                except ExistsError as error:
                    more = "; --overwrite lets it give way" if error.gives_way else ""
                    raise UsageError(f"{error}{more}") from None
                print_json(answer)
                if isinstance(answer, Failed):
                    raise typer.Exit(1)

        found = (
            {}
            if kind is None
            else {
                name: _parameter(name, _annotated(kind, name), required=option.required)
                for name, option in verbs.fields(kind).items()
            }
        )
        own = dict(inspect.signature(command, eval_str=True).parameters)
        plain = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for each in own.values()
            if each.kind is not inspect.Parameter.VAR_KEYWORD and each.name != "debug"
        ]
        last = [
            _parameter(name, hint).replace(default=False if name != "log" else None)
            for name, hint in SHARED.items()
        ]
        at = next((at + 1 for at, each in enumerate(plain) if each.name == "out"), 0)
        when = OVERWRITING.get(command.__name__)
        if when is not None:
            hint = Annotated[bool, typer.Option("--overwrite", help=when)]
            plain.insert(at, _parameter("overwrite", hint).replace(default=False))
        parameters = [*plain, *found.values(), *last]
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        called.__annotations__ = {each.name: each.annotation for each in parameters}
        EXAMPLES[command.__name__] = examples
        return called

    return give


def _looked_at(kind: type | None, given: dict[str, Any]) -> dict[str, Any]:
    """Look whether models, data and what goes by a name are there, before anything heavy is imported.

    Returns:
        what was given otherwise than it is to be read: standard input, which is read here, once.
    """
    for name in _MODELS:
        if isinstance(given.get(name), str):
            finding.require_there(given[name])
    if kind is None:
        return {}
    found = reading.given(kind, {name: given[name] for name in verbs.fields(kind) if name in given}).options
    task = {"task": given["task"]} if "task" in given else {}
    names.require_known(found | task)
    if asked := found.get("structure"):
        names.require_structures(asked)
    sources = {name: found[name] for name in reading.DATA if name in found}
    for source in sources.values():
        data.require_there(source)
    return sources


def _refuse_existing(given: dict[str, Any]) -> None:
    """Look whether what is to appear may, before anything heavy is imported; the command does so again."""
    out, path = given.get("out"), given.get("path")
    if out is None or given.get("resume") or given.get("dry_run"):
        return
    # A page in the folder that it is of is made again.
    if path is None or Path(out).resolve() != Path(path).resolve():
        folders.refuse_existing(Path(out))


@contextmanager
def _overwriting(wanted: bool, given: dict[str, Any]) -> Iterator[None]:
    if not wanted:
        yield
        return
    read = [
        value for name, value in given.items() if name not in _WRITES and isinstance(value, str) and value
    ]
    with folders.overwriting(reads=read):
        yield


def _parameter(name: str, hint: Any, *, required: bool = False) -> inspect.Parameter:
    default = inspect.Parameter.empty if required else None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def _annotated(kind: type, name: str) -> Any:
    """An option as Typer reads it."""
    option, of = verbs.fields(kind)[name], verbs.kind_of(verbs.hints(kind)[name])
    group = next(title for title, group in verbs.GROUPS[kind].items() if name in verbs.fields(group))
    more: dict[str, Any] = {"metavar": option.metavar} if option.metavar else {}
    if option.parse is not None or of in (int, float):
        more["parser"] = _parser(option, of)
    if name in CHOICES:
        more["autocompletion"] = completing(name)
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


def completing(name: str) -> Callable[[str], list[str]]:
    """What completes the value of an option, of a list its last part."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{each}" for each in CHOICES[name] if each.startswith(last)]

    return complete


def _parser(option: Option, of: Any) -> Callable[[str], Any]:
    """What reads an option's value, and says what it should have been where it is none."""

    def parse(value: str) -> Any:
        try:
            return (option.parse or of)(value)
        except ValueError:
            raise typer.BadParameter(f"{value}: not {reading.words_of(option, of)}") from None

    parse.__name__ = option.metavar or {int: "INTEGER", float: "NUMBER"}.get(of, "VALUE")
    return parse


def _default(value: Any) -> str:
    if value in (None, False, ()):
        return ""
    if value is True:
        return "  [default: yes]"
    shown = ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else value
    return f"  [default: {shown}]"
