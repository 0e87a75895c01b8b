"""`eckart recover`: training after the cut."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from eckart.cli.ending import errors, resumable
from eckart.cli.options import (
    Accumulate,
    Batch,
    Data,
    Debug,
    Device,
    Epochs,
    Fields,
    GradientCheckpointing,
    Json,
    LearningRate,
    Model,
    Precision,
    Resume,
    SaveEvery,
    Seed,
    Tokens,
    Train,
    default,
    filled,
)
from eckart.cli.saying import console, print_json, say, show_notes, track
from eckart.recovery import processes
from eckart.types import UsageError


def recover(
    model: Model,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder to save in; it must not exist.", callback=filled)
    ],
    data: Data = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", help="The dense model, to be imitated: a folder, a hub id.", callback=filled
        ),
    ] = None,
    train: Train = None,
    steps: Annotated[int | None, typer.Option("--steps", help="How long to train, in steps; or")] = None,
    tokens: Tokens = None,
    epochs: Epochs = None,
    batch: Batch = None,
    accumulate: Accumulate = None,
    learning_rate: LearningRate = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help=f"cosine, linear or constant; {default('schedule')}.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option("--warmup", help=f"Share of the steps; {default('warmup')}.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help=f"{default('weight_decay').capitalize()}.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option("--clip", help=f"Norm of the gradient at most; {default('clip')}.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", help=f"Tokens in a window at most; {default('max_length')}."),
    ] = None,
    precision: Precision = None,
    gradient_checkpointing: GradientCheckpointing = False,
    adapter_rank: Annotated[
        int | None, typer.Option("--adapter-rank", help=f"Of lora and its kin; {default('adapter_rank')}.")
    ] = None,
    adapter_alpha: Annotated[
        float | None,
        typer.Option("--adapter-alpha", help=f"Of lora and its kin; {default('adapter_alpha')}."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of both models' logits, with --teacher.")
    ] = None,
    labels: Annotated[
        float | None, typer.Option("--labels", help="Share of the labels' own loss, with --teacher.")
    ] = None,
    hidden: Annotated[
        float | None, typer.Option("--hidden", help="Weight of the hidden states, with --teacher.")
    ] = None,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Whether a completion ends with the end of text.")
    ] = True,
    fields: Fields = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Texts of the data to use at most.")
    ] = None,
    save_every: SaveEvery = None,
    resume: Resume = False,
    seed: Seed = None,
    device: Device = "cpu",
    dtype: Annotated[
        str, typer.Option("--dtype", help="Train the weights in; they are saved in the folder's own.")
    ] = "float32",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Train what a cut left, alone or against a teacher; torchrun and accelerate launch it too."""
    console.quiet = not processes.leads()
    # Of several processes torch warns each about what Eckart chose.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    with errors(debug):
        if data is None:
            raise UsageError("recover learns from data: give --data FILE (.jsonl, .txt, .csv)")
        from eckart import pipeline

        with resumable(out):
            made = pipeline.recover(
                model,
                out,
                data=data,
                teacher=teacher,
                fields=fields,
                samples=samples,
                temperature=temperature,
                labels=labels,
                hidden=hidden,
                device=device,
                dtype=dtype,
                resume=resume,
                track=track,
                train=train,
                steps=steps,
                tokens=tokens,
                epochs=epochs,
                batch=batch,
                accumulate=accumulate,
                learning_rate=learning_rate,
                schedule=schedule,
                warmup=warmup,
                weight_decay=weight_decay,
                clip=clip,
                max_length=max_length,
                precision=precision,
                gradient_checkpointing=gradient_checkpointing,
                adapter_rank=adapter_rank,
                adapter_alpha=adapter_alpha,
                end=end,
                save_every=save_every,
                seed=seed,
            )
        manifest = made.manifest
        record = manifest.training[-1]
        first, last = record.losses[0][1], record.losses[-1][1]
        show_notes(record.notes)
        say(
            f"{out}: {record.settings['train']} trained for {record.steps:,} steps, {record.tokens:,} "
            f"tokens; loss {first:.4f} -> {last:.4f}; {made.seconds:.1f} s, "
            f"{made.peak_memory_bytes / 1e9:.2f} GB at the peak"
        )
        print_json(
            as_json and processes.leads(),
            {
                "out": out,
                "method": "recover",
                "steps": record.steps,
                "tokens": record.tokens,
                "loss": {"first": first, "last": last},
                "parameters": manifest.parameters.model_dump(),
                "bytes": manifest.bytes.model_dump(),
                "seconds": made.seconds,
                "peak_memory_bytes": made.peak_memory_bytes,
                "notes": record.notes,
            },
        )
