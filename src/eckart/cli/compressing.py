"""`eckart compress`: the main job."""

from __future__ import annotations

import os
from typing import Any

from eckart.cli.ending import errors, resumable
from eckart.cli.options import Debug, Json, ModelOrRecipe, Out, RecipeFile, takes
from eckart.cli.saying import console, print_json, say, show_notes, shrunk, track
from eckart.recipes import verbs
from eckart.recovery import processes


@takes(verbs.Compress)
def compress(
    out: Out,
    model: ModelOrRecipe = None,
    recipe: RecipeFile = None,
    as_json: Json = False,
    debug: Debug = False,
    **given: Any,
) -> None:
    """The main job: a pretrained model in, a smaller plain Hugging Face folder out; also by torchrun."""
    console.quiet = not processes.leads()
    # Of several processes torch warns each about what Eckart chose.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with errors(debug):
        from eckart import pipeline

        with resumable(out):
            made = pipeline.compress(model, out, recipe=recipe, track=track, **given)
        manifest = made.manifest
        if manifest.held_out is not None:
            say(manifest.held_out.in_words())
        show_notes(manifest.notes)
        for warning in made.warnings:
            say(f"warning: {warning}")
        say(
            f"{out}: {manifest.recipe.method}, {manifest.recipe.structure}, {manifest.recipe.allocation}; "
            f"{shrunk(manifest.parameters, manifest.bytes)}; {made.seconds:.1f} s, "
            f"{made.peak_memory_bytes / 1e9:.2f} GB at the peak"
        )
        if made.phases:
            say("block by block: " + ", ".join(f"{work} {took:.1f} s" for work, took in made.phases.items()))
        for run in manifest.training:
            say(
                f"  {run.purpose}: {run.steps:,} steps, {run.tokens:,} tokens; "
                f"loss {run.losses[0][1]:.4f} -> {run.losses[-1][1]:.4f}"
            )
        print_json(
            as_json and processes.leads(),
            {
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
            },
        )
