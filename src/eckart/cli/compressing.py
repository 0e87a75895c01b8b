"""`eckart compress`: the main job."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

import eckart
from eckart.cli.ending import resumable
from eckart.cli.options import ModelOrRecipe, Out, RecipeFile, verb
from eckart.cli.planning import plan_json, show_plan
from eckart.cli.pushing import PushToHub, pushed, require_pushable
from eckart.cli.saying import note, show_notes, shrunk, tell, track, warn
from eckart.recipes import reading, verbs


@verb(verbs.Compress, "eckart compress MODEL -o SMALL --keep 80% --data FILE")
def compress(
    out: Out,
    model: ModelOrRecipe = None,
    recipe: RecipeFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only the plan, with the same options; nothing is written.")
    ] = False,
    push_to_hub: PushToHub = None,
    **given: Any,
) -> dict[str, Any]:
    """The main job: a pretrained model in, a smaller plain Hugging Face folder out; also by torchrun."""
    # Of several processes torch warns each about what Eckart chose.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    require_pushable(push_to_hub)
    if model is not None and recipe is None:
        # Before anything heavy is imported: this is what is forgotten most.
        reading.require_size(reading.completed(verbs.Compress, reading.given(verbs.Compress, given)))
    if dry_run:
        from eckart.pipeline.plan import dry_run as planned_alone

        planned = planned_alone(model, out, recipe=recipe, **given)
        show_plan(planned)
        return plan_json(planned)
    begun = any(os.path.exists(place) for place in (out, f"{out}.work", f"{out}.training"))
    if given.get("resume") and not begun:
        note(f"nothing of {out} was begun: it begins now")
    with resumable(out):
        made = eckart.compress(model, out, recipe=recipe, track=track, **given)
    manifest = made.manifest
    if manifest.held_out is not None:
        tell(manifest.held_out.in_words())
    show_notes(manifest.notes)
    for warning in made.warnings:
        warn(warning)
    tell(
        f"{out}: {manifest.recipe.method}, {manifest.recipe.structure}, {manifest.recipe.allocation}; "
        f"{shrunk(manifest.parameters, manifest.bytes)}; {made.seconds:.1f} s, "
        f"{made.peak_memory_bytes / 1e9:.2f} GB at the peak"
    )
    if made.phases:
        tell("block by block: " + ", ".join(f"{work} {took:.1f} s" for work, took in made.phases.items()))
    for run in manifest.training:
        tell(
            f"  {run.purpose}: {run.steps:,} steps, {run.tokens:,} tokens; "
            f"loss {run.losses[0][1]:.4f} -> {run.losses[-1][1]:.4f}"
        )
    return {
        "out": out,
        "method": manifest.recipe.method,
        "parameters": manifest.parameters.model_dump(),
        "bytes": manifest.bytes.model_dump(),
        "seconds": made.seconds,
        "peak_memory_bytes": made.peak_memory_bytes,
        "phases": made.phases,
        "training": [run.model_dump(exclude={"losses"}) for run in manifest.training],
        "held_out": manifest.held_out and manifest.held_out.model_dump(),
        "notes": manifest.notes,
        "warnings": made.warnings,
        **pushed(out, push_to_hub),
    }
