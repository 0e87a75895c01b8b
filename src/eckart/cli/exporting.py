"""`eckart export`: a compressed model in the form that other tools read."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

import eckart
from eckart.cli.options import Model, filled, verb
from eckart.cli.pushing import PushToHub, pushed, require_pushable
from eckart.cli.saying import show_notes, tell


@verb(None, "eckart export SMALL -o dense --format dense")
def export(
    model: Model,
    out: Annotated[
        str,
        typer.Option("--out", "-o", help="Folder to write; it must not exist.", callback=filled),
    ],
    format: Annotated[  # noqa: A002
        str,
        typer.Option(
            "--format",
            help="dense, gguf-ready, gguf (factors multiplied out: no smaller), onnx or openvino.",
            callback=filled,
        ),
    ],
    check: Annotated[
        bool,
        typer.Option("--check/--no-check", help="Compare the answers of what was made with the model's own."),
    ] = True,
    converter: Annotated[
        str | None,
        typer.Option(
            "--converter",
            metavar="FILE",
            help="Of gguf: llama.cpp's convert_hf_to_gguf.py, which is run; default that of $LLAMA_CPP, or "
            "on the path.",
            callback=filled,
        ),
    ] = None,
    type: Annotated[  # noqa: A002
        str | None,
        typer.Option("--type", help="Of gguf: auto, f32, f16, bf16 or q8_0; default auto.", callback=filled),
    ] = None,
    push_to_hub: PushToHub = None,
) -> dict[str, Any]:
    """A compressed model for other tools: as a dense folder again, or as one graph in which factors stay."""
    require_pushable(push_to_hub)
    made = eckart.export(model, out, format=format, check=check, converter=converter, type=type)
    show_notes(made.notes)
    size = made.bytes
    tell(
        f"{out}: {made.format}, {made.architecture}, {made.parameters:,} parameters in {made.dtype}; "
        f"{size.before / 1e6:,.1f} -> {size.after / 1e6:,.1f} MB; {made.seconds:.1f} s"
    )
    for each in made.checks:
        tell(
            f"  {each.batch} x {each.length} tokens: differs by {each.difference:.1e} at most, "
            f"{each.relative:.1e} of the largest output"
        )
    if made.commands:
        tell("next, one of:")
    for command in made.commands:
        tell(f"  {command}")
    answer = {name: value for name, value in vars(made).items() if name not in ("bytes", "checks")}
    answer |= {"bytes": size.model_dump(), "checks": [asdict(each) for each in made.checks]}
    return answer | pushed(out, push_to_hub)
