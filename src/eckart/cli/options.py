"""The options that commands share: one name, one help text and one type for each."""

from __future__ import annotations

from typing import Annotated

import typer

from eckart.cli.saying import say
from eckart.recovery.settings import Training
from eckart.types import UsageError

BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
THOUSANDS = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


def filled(parameter: typer.CallbackParam, value: str | None) -> str | None:
    """An empty value is a mistake, as of a shell variable that is not set: it never means the default."""
    if value is not None and not value.strip():
        say(f"eckart: {parameter.metavar or parameter.opts[0]} is empty")
        raise typer.Exit(2)
    return value


Model = Annotated[
    str, typer.Argument(metavar="MODEL", help="A folder, a hub id, or pocket.", callback=filled)
]
Keep = Annotated[float | None, typer.Option("--keep", help="Parameters after / parameters before.")]


def percent(value: str) -> float:
    """`2%` or `0.02`."""
    share = value.strip()
    return float(share[:-1]) / 100 if share.endswith("%") else float(share)


MaxLoss = Annotated[
    float | None,
    typer.Option(
        "--max-loss",
        parser=percent,
        metavar="SHARE",
        help="Instead of a size: the smallest model within this increase of the held-out loss, as 2%.",
    ),
]
Energy = Annotated[
    float | None,
    typer.Option(
        "--energy",
        parser=percent,
        metavar="SHARE",
        help="Instead of a size: energy that each target keeps, as 99%.",
    ),
]
Rank = Annotated[int | None, typer.Option("--rank", help="The same rank for every target, by hand.")]
Ratio = Annotated[float | None, typer.Option("--ratio", help="Rank by hand, as a share of the smaller side.")]
Of = Annotated[str, typer.Option("--of", help="Count keep over the whole model, or over the targets.")]
Method = Annotated[str | None, typer.Option("--method", help="A row of the catalogue: eckart methods.")]
MetricName = Annotated[
    str | None, typer.Option("--metric", help="Instead of the method's: how error is weighed.")
]
StructureName = Annotated[
    str | None,
    typer.Option("--structure", help="Instead of the method's: lowrank, pivoted or quantized+lowrank."),
]
Allocate = Annotated[
    str | None,
    typer.Option("--allocate", help="Instead of the method's: uniform, energy, waterfill, measured or auto."),
]
Recovery = Annotated[
    str | None,
    typer.Option(
        "--recovery", help="Instead of the method's: none, refit, basis-selection or basis-training."
    ),
]
Cache = Annotated[
    bool,
    typer.Option("--cache/--no-cache", help="Keep what was observed of the data on disk, for the next run."),
]
Targets = Annotated[
    str | None,
    typer.Option(
        "--targets",
        help="Module-name endings or globs, by comma; default all in the blocks.",
        callback=filled,
    ),
]
Layers = Annotated[
    str | None,
    typer.Option("--layers", help="Which blocks: top:4, bottom:2, 3-7, 0,5.", callback=filled),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A file (.jsonl, .json, .txt, .csv, .parquet, …), a data set of the hub, or pocket.",
        callback=filled,
    ),
]
Fields = Annotated[
    str | None,
    typer.Option(
        "--fields",
        metavar="PROMPT,COMPLETION",
        help="Names of the fields to take from the data, as they stand; one name for plain text.",
        callback=filled,
    ),
]
Samples = Annotated[
    int | None,
    typer.Option(
        "--samples", help="Windows of the data to calibrate on; default 512, and more of short ones."
    ),
]
MaxLength = Annotated[int, typer.Option("--max-length", help="Tokens in a window at most.")]
Device = Annotated[str, typer.Option("--device", help="Where to run: cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Load weights in: auto, float32, bfloat16, float16.")]
Methods = Annotated[
    str | None,
    typer.Option(
        "--methods",
        help="Rows of the catalogue, by comma, with other axes after colons: svd,kfac:pivoted; default all, "
        "those that train only with --tokens or --epochs.",
        callback=filled,
    ),
]
Keeps = Annotated[
    str,
    typer.Option("--keep", help="Sizes, by comma: parameters after / parameters before.", callback=filled),
]
Test = Annotated[
    str | None,
    typer.Option(
        "--test",
        help="What the task reads; without it, texts that are held out of --data.",
        callback=filled,
    ),
]


def count(value: str) -> int:
    """`1000000`, `1M` or `0.5m`."""
    number, unit = (
        (value[:-1], THOUSANDS[value[-1].lower()]) if value[-1:].lower() in THOUSANDS else (value, 1)
    )
    return int(float(number) * unit)


def default(name: str) -> str:
    """`default 16`, as the settings of a training have it."""
    value = Training.model_fields[name].default
    return f"default {value:g}" if isinstance(value, (int, float)) else f"default {value}"


TASKS_HELP = (
    "perplexity, stsb, gsm8k, math, samsum, pairs, humaneval, mbpp, pocket, pocket-math, pocket-code, "
    "pocket-stories, or lm-eval:NAME for any task of lm-evaluation-harness."
)
Limit = Annotated[
    int | None, typer.Option("--limit", help="Texts, pairs, problems or samples to use at most.")
]
MaxNewTokens = Annotated[
    int | None, typer.Option("--max-new-tokens", help="Tokens of an answer at most; default by the task.")
]
PromptsAtOnce = Annotated[int | None, typer.Option("--batch", help="Prompts at once; default 16.")]
AllowCodeExecution = Annotated[
    bool, typer.Option("--allow-code-execution", help="Run code that the model wrote, on this machine.")
]
Tokens = Annotated[
    int | None,
    typer.Option("--tokens", parser=count, metavar="COUNT", help="How long to train, in tokens, as 10M; or"),
]
Epochs = Annotated[float | None, typer.Option("--epochs", help="in passes over the data.")]
Batch = Annotated[
    int | None, typer.Option("--batch", help=f"Windows in a step, of all processes; {default('batch')}.")
]
Accumulate = Annotated[
    int | None,
    typer.Option("--accumulate", help="Passes that a step is made of: less memory, the same result."),
]
LearningRate = Annotated[
    float | None, typer.Option("--learning-rate", help=f"{default('learning_rate').capitalize()}.")
]
Train = Annotated[
    str | None,
    typer.Option(
        "--train",
        help=f"What to train: factors, all, or a method of peft, as lora, dora, ia3; {default('train')}.",
        callback=filled,
    ),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help=f"Train in float32, or bf16 (autocast); {default('precision')}."),
]
GradientCheckpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Train with less memory, a third slower.")
]
SaveEvery = Annotated[
    int | None,
    typer.Option("--save-every", help="Steps between checkpoints; default a tenth of all, at most 500."),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run that was stopped, from its last checkpoint.")
]
Seed = Annotated[int | None, typer.Option("--seed", help=f"{default('seed').capitalize()}.")]
Merge = Annotated[
    bool,
    typer.Option("--merge", help="Save it dense again: any tool loads it, and it is as large as before."),
]


def size(value: str) -> int:
    """`8GB`, `512MB` or `8e9`, in bytes."""
    text = value.strip().upper().removesuffix("B")
    number, unit = (text[:-1], BYTES[text[-1]]) if text[-1:] in BYTES else (text, 1)
    return int(float(number) * unit)


Memory = Annotated[
    int | None,
    typer.Option(
        "--memory", parser=size, metavar="SIZE", help="Memory to take at most, as 8GB; default what is free."
    ),
]
Blocks = Annotated[
    bool | None,
    typer.Option(
        "--blocks/--whole",
        help="One block of the model in memory at a time, or all of it; default as fits.",
    ),
]
Size = Annotated[
    int | None,
    typer.Option(
        "--size", parser=size, metavar="SIZE", help="Bytes of the saved weights at most, as 3GB or 800MB."
    ),
]
Quantized = Annotated[
    str | None,
    typer.Option(
        "--quantize", help="Round the factors, and targets that stay dense: int8 or int4, by torchao."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def split(names: str | None) -> list[str] | None:
    """The names in a list by commas."""
    return None if names is None else [name.strip() for name in names.split(",") if name.strip()]


def numbers(option: str, names: str) -> list[float]:
    """The numbers in a list by commas.

    Raises:
        UsageError: one of them is none.
    """
    found = []
    for name in split(names) or []:
        try:
            found.append(float(name))
        except ValueError:
            raise UsageError(f"{option} {name}: not a number") from None
    return found


def whole(option: str, names: str) -> list[int]:
    """The whole numbers in a list by commas.

    Raises:
        UsageError: one of them is none.
    """
    found = numbers(option, names)
    if wrong := [value for value in found if not value.is_integer()]:
        raise UsageError(f"{option} {wrong[0]:g}: not a whole number")
    return [int(value) for value in found]
