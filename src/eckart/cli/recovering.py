"""`eckart recover`: training after the cut."""

from __future__ import annotations

import os
from typing import Any

import eckart
from eckart.cli.ending import resumable
from eckart.cli.options import ModelOrRecipe, Out, RecipeFile, verb
from eckart.cli.pushing import PushToHub, pushed, require_pushable
from eckart.cli.saying import show_notes, tell, track, warn
from eckart.recipes import verbs


@verb(verbs.Recover, "eckart recover SMALL -o BETTER --data FILE --teacher MODEL")
def recover(
    out: Out,
    model: ModelOrRecipe = None,
    recipe: RecipeFile = None,
    push_to_hub: PushToHub = None,
    **given: Any,
) -> dict[str, Any]:
    """Train what a cut left, alone or against a teacher; torchrun and accelerate launch it too."""
    # Of several processes torch warns each about what Eckart chose.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    require_pushable(push_to_hub)
    with resumable(out):
        made = eckart.recover(model, out, recipe=recipe, track=track, **given)
    manifest = made.manifest
    record = manifest.training[-1]
    first, last = record.losses[0][1], record.losses[-1][1]
    for judged in (record.held_out, manifest.held_out):
        if judged is not None:
            tell(judged.in_words())
    show_notes(record.notes)
    for warning in made.warnings:
        warn(warning)
    tell(
        f"{out}: {record.settings['train']} trained for {record.steps:,} steps, {record.tokens:,} "
        f"tokens; loss {first:.4f} -> {last:.4f}; {made.seconds:.1f} s, "
        f"{made.peak_memory_bytes / 1e9:.2f} GB at the peak"
    )
    return {
        "out": out,
        "method": "recover",
        "steps": record.steps,
        "tokens": record.tokens,
        "loss": {"first": first, "last": last},
        "parameters": manifest.parameters.model_dump(),
        "bytes": manifest.bytes.model_dump(),
        "seconds": made.seconds,
        "peak_memory_bytes": made.peak_memory_bytes,
        "learned": record.held_out and record.held_out.model_dump(),
        "held_out": manifest.held_out and manifest.held_out.model_dump(),
        "warnings": made.warnings,
        "notes": record.notes,
        **pushed(out, push_to_hub),
    }
