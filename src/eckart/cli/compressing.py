"""`eckart compress`: the main job."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from eckart.cli.ending import errors, resumable
from eckart.cli.options import (
    Accumulate,
    Allocate,
    Batch,
    Blocks,
    Cache,
    Data,
    Debug,
    Device,
    Dtype,
    Energy,
    Epochs,
    Fields,
    GradientCheckpointing,
    Json,
    Keep,
    Layers,
    LearningRate,
    MaxLength,
    MaxLoss,
    Memory,
    Merge,
    Method,
    MetricName,
    Model,
    Of,
    Precision,
    Quantized,
    Rank,
    Ratio,
    Recovery,
    Resume,
    Samples,
    SaveEvery,
    Seed,
    Size,
    StructureName,
    Targets,
    Tokens,
    Train,
    filled,
    split,
)
from eckart.cli.saying import console, print_json, say, show_held_out, show_notes, shrunk, track
from eckart.recovery import processes
from eckart.types import MAX_LENGTH


def compress(
    model: Model,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder to save in; it must not exist.", callback=filled)
    ],
    keep: Keep = None,
    max_loss: MaxLoss = None,
    energy: Energy = None,
    rank: Rank = None,
    ratio: Ratio = None,
    size: Size = None,
    of: Of = "model",
    method: Method = None,
    metric: MetricName = None,
    structure: StructureName = None,
    allocate: Allocate = None,
    recovery: Recovery = None,
    quantize: Quantized = None,
    targets: Targets = None,
    layers: Layers = None,
    data: Data = None,
    samples: Samples = None,
    max_length: MaxLength = MAX_LENGTH,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    cache: Cache = True,
    tokens: Tokens = None,
    epochs: Epochs = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    learning_rate: LearningRate = None,
    train: Train = None,
    precision: Precision = None,
    gradient_checkpointing: GradientCheckpointing = False,
    save_every: SaveEvery = None,
    seed: Seed = None,
    resume: Resume = False,
    merge: Merge = False,
    blocks: Blocks = None,
    memory: Memory = None,
    fields: Fields = None,
    additional: Annotated[
        int | None,
        typer.Option("--additional", help="Of basis selection: new bases beside those of each weight."),
    ] = None,
    prunes: Annotated[
        int | None, typer.Option("--prunes", help="In how many steps bases are dropped; default 100.")
    ] = None,
    prune_schedule: Annotated[
        str | None,
        typer.Option("--prune-schedule", help="cubic (less and less) or linear; default cubic."),
    ] = None,
    importance: Annotated[
        str | None,
        typer.Option(
            "--importance", help="What bases are ranked by: fisher, bsi or magnitude; default fisher."
        ),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option("--scope", help="Rank bases of the model together (global) or of each target (target)."),
    ] = None,
    share: Annotated[
        float | None, typer.Option("--share", help="Of the training, in which bases are dropped.")
    ] = None,
    weights_rate: Annotated[
        float | None, typer.Option("--weights-rate", help="Learning rate of the bases' weights.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """The main job: a pretrained model in, a smaller plain Hugging Face folder out; also by torchrun."""
    console.quiet = not processes.leads()
    # Of several processes torch warns each about what Eckart chose.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with errors(debug):
        from eckart import pipeline

        wanted = {
            "tokens": tokens,
            "epochs": epochs,
            "batch": batch,
            "accumulate": accumulate,
            "learning_rate": learning_rate,
            "train": train,
            "precision": precision,
            "gradient_checkpointing": gradient_checkpointing or None,
            "save_every": save_every,
            "seed": seed,
        }
        selection = {
            "additional": additional,
            "prunes": prunes,
            "prune_schedule": prune_schedule,
            "importance": importance,
            "scope": scope,
            "share": share,
            "weights_rate": weights_rate,
        }
        with resumable(out):
            made = pipeline.compress(
                model,
                out,
                keep=keep,
                max_loss=max_loss,
                energy=energy,
                rank=rank,
                ratio=ratio,
                size=size,
                of=of,
                method=method,
                metric=metric,
                structure=structure,
                allocation=allocate,
                recovery=recovery,
                quantize=quantize,
                targets=split(targets),
                layers=layers,
                data=data,
                samples=samples,
                max_length=max_length,
                device=device,
                dtype=dtype,
                cache=cache,
                training={name: value for name, value in wanted.items() if value is not None} or None,
                selection=selection,
                fields=fields,
                resume=resume,
                merge=merge,
                blocks=blocks,
                memory=memory,
                track=track,
            )
        manifest = made.manifest
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
        show_held_out(manifest.held_out)
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
