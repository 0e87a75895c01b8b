"""`eckart recover`: training after the cut."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from eckart.cli.ending import Interrupted, errors
from eckart.cli.options import Data, Debug, Device, Json, Model, filled
from eckart.cli.saying import console, print_json, say, show_notes, track
from eckart.recovery import processes
from eckart.recovery.settings import Training
from eckart.types import EckartError, UsageError

THOUSANDS = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def count(value: str) -> int:
    """`1000000`, `1M` or `0.5m`."""
    number, unit = (
        (value[:-1], THOUSANDS[value[-1].lower()]) if value[-1:].lower() in THOUSANDS else (value, 1)
    )
    return int(float(number) * unit)


def _default(name: str) -> str:
    """`default 16`, as the settings have it."""
    value = Training.model_fields[name].default
    return f"default {value:g}" if isinstance(value, (int, float)) else f"default {value}"


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
    train: Annotated[
        str | None,
        typer.Option(
            "--train",
            help=f"factors, all, or a method of peft, as lora, dora, ia3; {_default('train')}.",
            callback=filled,
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="How long to train, in steps; or")] = None,
    tokens: Annotated[
        int | None, typer.Option("--tokens", parser=count, metavar="COUNT", help="in tokens, as 10M; or")
    ] = None,
    epochs: Annotated[
        float | None, typer.Option("--epochs", help="in passes over the data; default 1.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", help=f"Windows in a step, of all processes; {_default('batch')}.")
    ] = None,
    accumulate: Annotated[
        int | None,
        typer.Option("--accumulate", help="Passes that a step is made of: less memory, the same result."),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help=f"{_default('learning_rate').capitalize()}.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help=f"cosine, linear or constant; {_default('schedule')}.")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option("--warmup", help=f"Share of the steps; {_default('warmup')}.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option("--weight-decay", help=f"{_default('weight_decay').capitalize()}.")
    ] = None,
    clip: Annotated[
        float | None, typer.Option("--clip", help=f"Norm of the gradient at most; {_default('clip')}.")
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option("--max-length", help=f"Tokens in a window at most; {_default('max_length')}."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help=f"float32, or bf16 (autocast); {_default('precision')}."),
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory, a third slower.")
    ] = False,
    adapter_rank: Annotated[
        int | None, typer.Option("--adapter-rank", help=f"Of lora and its kin; {_default('adapter_rank')}.")
    ] = None,
    adapter_alpha: Annotated[
        float | None,
        typer.Option("--adapter-alpha", help=f"Of lora and its kin; {_default('adapter_alpha')}."),
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
    fields: Annotated[
        str | None,
        typer.Option("--fields", help="Fields of the data that are PROMPT,COMPLETION.", callback=filled),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Texts of the data to use at most.")
    ] = None,
    save_every: Annotated[
        int | None,
        typer.Option("--save-every", help="Steps between checkpoints; default a tenth of all, at most 500."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run that was stopped, from its last checkpoint.")
    ] = False,
    seed: Annotated[int | None, typer.Option("--seed", help=f"{_default('seed').capitalize()}.")] = None,
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

        try:
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
        except (Interrupted, KeyboardInterrupt):
            if os.path.isdir(f"{out}.training"):
                raise EckartError(
                    f"interrupted; --resume goes on from the last checkpoint in {out}.training"
                ) from None
            raise
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
