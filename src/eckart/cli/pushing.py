"""`eckart push`, and `--push-to-hub` of the commands that write a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

import eckart
from eckart.cli.help import OUTPUT
from eckart.cli.options import filled, verb
from eckart.cli.saying import tell
from eckart.recovery import processes

PushToHub = Annotated[
    str | None,
    typer.Option(
        "--push-to-hub",
        metavar="OWNER/NAME",
        help="Upload the result to the hub under this name too.",
        callback=filled,
        rich_help_panel=OUTPUT,
    ),
]


@verb(None, "eckart push SMALL me/small")
def push(
    out: Annotated[
        str,
        typer.Argument(metavar="SMALL", help="A folder that Eckart wrote.", callback=filled),
    ],
    name: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME", help="At the hub; it is made where there is none.", callback=filled
        ),
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make it for its owner alone, where it is made.")
    ] = False,
) -> dict[str, Any]:
    """Upload a folder to the hub of Hugging Face, in one commit; what is there already is not sent again."""
    return _push(out, name, private)


def require_pushable(name: str | None) -> None:
    """See that a name may be pushed to, before the work that fills a folder."""
    if name is not None and processes.leads():
        from eckart.pipeline.push import require_pushable as require

        require(name)


def pushed(out: str, name: str | None) -> dict[str, Any]:
    """Push what was made, where that was asked for, from one process: what `--json` has of it."""
    if name is None or not processes.leads():
        return {}
    return {"pushed": _push(out, name, private=False)}


def _push(out: str, name: str, private: bool) -> dict[str, Any]:
    made = eckart.push(out, name, private=private)
    tell(made.in_a_line())
    return dict(vars(made))
