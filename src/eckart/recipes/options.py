"""The options of the verbs, in groups: one definition for Python, the command line and recipe files.

A field is an option. Its name is the keyword in Python and the key in a recipe file, and with dashes the flag
on the command line. `None` is the same as not given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict

from eckart.recipes.efforts import NORMAL
from eckart.recovery.settings import Training as Settings
from eckart.types import MAX_LENGTH

BYTES = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
THOUSANDS = {"k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        help: what it is, in a line.
        default: its value where it is not given; `None` where that depends on others.
        flag: on the command line, where that is not its name; `--yes/--no` of a choice of two.
        metavar: what stands for its value in `--help`.
        parse: from how people write a value, as `2%` or `3GB`; raises ValueError.
        common: whether `--help` shows it first.
        repeated: whether it may be given several times.
        required: whether it must be given.
    """

    help: str
    default: Any = None
    flag: str | None = None
    metavar: str | None = None
    parse: Callable[[str], Any] | None = None
    common: bool = False
    repeated: bool = False
    required: bool = False


def percent(value: str) -> float:
    """`2%` or `0.02`."""
    share = value.strip()
    return float(share[:-1]) / 100 if share.endswith("%") else float(share)


def count(value: str) -> int:
    """`1000000`, `1M` or `0.5m`."""
    number, unit = (
        (value[:-1], THOUSANDS[value[-1].lower()]) if value[-1:].lower() in THOUSANDS else (value, 1)
    )
    return _whole(float(number) * unit)


def size(value: str) -> int:
    """`8GB`, `512MB` or `8e9`, in bytes."""
    text = value.strip().upper().removesuffix("B")
    number, unit = (text[:-1], BYTES[text[-1]]) if text[-1:] in BYTES else (text, 1)
    return _whole(float(number) * unit)


def _whole(number: float) -> int:
    if not 0 < number < 1e18:
        raise ValueError(f"{number:g} is not above 0 and finite")
    return int(number)


def _setting(name: str) -> str:
    """`default 16`, as the settings of a training have it."""
    value = Settings.model_fields[name].default
    return f"default {value:g}" if isinstance(value, (int, float)) else f"default {value}"


Of = Annotated[str, Option("Count keep over the whole model, or over the targets.", default="model")]
DataFile = Annotated[
    str | Iterable[Any] | None,
    Option(
        "A file (.jsonl, .txt, .csv, .parquet, …), a folder or pattern of some, a data set of the hub, "
        "pocket, or - for standard input; in Python also texts or rows.",
        common=True,
    ),
]
Fields = Annotated[
    str | None,
    Option(
        "Names of the fields to take from the data, as they stand; one name for plain text.",
        metavar="PROMPT,COMPLETION",
    ),
]
On = Annotated[
    str,
    Option("What the loss of a chat is of: its answers, or all of it.", default="answers", metavar="WHAT"),
]
Structure = Annotated[
    str | None,
    Option("Instead of the method's: what replaces the weights (`eckart methods`), or several by commas."),
]
Merge = Annotated[
    bool, Option("Save it dense again: any tool loads it, and it is as large as before.", False)
]


DropUnused = Annotated[
    bool,
    Option("Leave tensors out that the model's class has no weight for, instead of refusing.", False),
]


Adapter = Annotated[
    str | None,
    Option("A folder of peft's, merged into the model in float32 before anything else.", metavar="FOLDER"),
]
Bos = Annotated[
    bool | None,
    Option(
        "Begin every text with the BOS token, or none; default as the tokenizer does.", flag="--bos/--no-bos"
    ),
]


class Sizes(TypedDict, total=False):
    """How small, as far as a config says what that comes to."""

    keep: Annotated[
        float | None,
        Option(
            "Parameters after / parameters before, as 0.8 or 80%.",
            metavar="SHARE",
            parse=percent,
            common=True,
        ),
    ]
    size: Annotated[
        int | None,
        Option(
            "Bytes of the saved weights at most, as 3GB or 800MB.", metavar="SIZE", parse=size, common=True
        ),
    ]
    rank: Annotated[int | None, Option("The same rank for every target, by hand.")]
    ratio: Annotated[
        float | None,
        Option("Rank by hand, as a share of the smaller side.", metavar="SHARE", parse=percent),
    ]
    of: Of


class Size(Sizes, total=False):
    """How small: by exactly one of these but `of`."""

    max_loss: Annotated[
        float | None,
        Option(
            "Instead of a size: the smallest model within this increase of the held-out loss, as 2%.",
            metavar="SHARE",
            parse=percent,
            common=True,
        ),
    ]
    energy: Annotated[
        float | None,
        Option("Instead of a size: energy that each target keeps, as 99%.", metavar="SHARE", parse=percent),
    ]


class Form(TypedDict, total=False):
    """The method, and the axes that sizes depend on."""

    method: Annotated[
        str | None,
        Option(
            "A row of the catalogue: eckart methods. Default auto, or svd-llm of ranks by hand.", common=True
        ),
    ]
    effort: Annotated[str, Option("Work put in: fast, normal, best.", NORMAL, common=True)]
    structure: Structure
    allocation: Annotated[
        str | None,
        Option("Instead of the method's: uniform, energy, waterfill, measured or auto.", flag="--allocate"),
    ]
    goal: Annotated[
        str,
        Option(
            "What it is to be: size; or speed, so that no weight is cut where that is slower here.",
            "size",
            flag="--for",
            metavar="GOAL",
        ),
    ]
    quantize: Annotated[
        str | None,
        Option(
            "Round weights to int8, int4, int3 or int2; several by comma: as serves each best.",
            common=True,
        ),
    ]


class Axes(Form, total=False):
    """The method, and the axes where they differ from its row."""

    metric: Annotated[str | None, Option("Instead of the method's: how error is weighed.")]
    recovery: Annotated[
        str | None,
        Option(
            "Instead of the method's: none, refit, imitation, refit+imitation, basis-selection or "
            "basis-training."
        ),
    ]


class Targets(TypedDict, total=False):
    """Which weights."""

    targets: Annotated[
        Sequence[str] | None,
        Option("Module-name endings or globs, by comma; default all in the blocks.", common=True),
    ]
    layers: Annotated[str | None, Option("Which blocks: top:4, bottom:2, 3-7, 0,5.", common=True)]


class Windows(TypedDict, total=False):
    """Data, cut into windows to calibrate on."""

    data: DataFile
    samples: Annotated[
        int | None, Option("Windows of the data to calibrate on; default 512, and more of short ones.")
    ]
    max_length: Annotated[int, Option("Tokens in a window at most.", MAX_LENGTH)]


class Data(Windows, total=False):
    """Data, and how they are read."""

    fields: Fields


class Calibration(Data, total=False):
    """Data to calibrate on, and what is asked of them."""

    on: On


class Training(TypedDict, total=False):
    """How a model is trained: as `eckart.recovery.settings.Training`, where the defaults are."""

    tokens: Annotated[
        int | None,
        Option(
            "How long to train, in tokens, as 10M; or by --epochs or --steps.",
            metavar="COUNT",
            parse=count,
            common=True,
        ),
    ]
    epochs: Annotated[float | None, Option("How long to train, in passes over the data.")]
    steps: Annotated[int | None, Option("How long to train, in steps.")]
    batch: Annotated[int | None, Option(f"Windows in a step, of all processes; {_setting('batch')}.")]
    accumulate: Annotated[int | None, Option("Passes that a step is made of: less memory, the same result.")]
    learning_rate: Annotated[float | None, Option(f"{_setting('learning_rate').capitalize()}.")]
    train: Annotated[
        str | None,
        Option(f"What to train: factors, all, or a method of peft, as lora, dora, ia3; {_setting('train')}."),
    ]
    schedule: Annotated[str | None, Option(f"cosine, linear or constant; {_setting('schedule')}.")]
    warmup: Annotated[float | None, Option(f"Share of the steps; {_setting('warmup')}.")]
    weight_decay: Annotated[float | None, Option(f"{_setting('weight_decay').capitalize()}.")]
    clip: Annotated[float | None, Option(f"Norm of the gradient at most; {_setting('clip')}.")]
    precision: Annotated[
        str | None, Option(f"Train in float32, or bf16 (autocast); {_setting('precision')}.")
    ]
    gradient_checkpointing: Annotated[bool | None, Option("Train with less memory, a third slower.")]
    end: Annotated[
        bool | None, Option("Whether a completion ends with the end of text, as it does by default.")
    ]
    save_every: Annotated[
        int | None, Option("Steps between checkpoints; default a tenth of all, at most 500.")
    ]
    seed: Annotated[int | None, Option(f"{_setting('seed').capitalize()}.")]


class Adapters(TypedDict, total=False):
    """Adapters of peft that are trained and merged: settings of a training too."""

    adapter_rank: Annotated[int | None, Option(f"Of lora and its kin; {_setting('adapter_rank')}.")]
    adapter_alpha: Annotated[float | None, Option(f"Of lora and its kin; {_setting('adapter_alpha')}.")]


class Selection(TypedDict, total=False):
    """How bases are selected: as `eckart.types.Selection`, where the defaults are."""

    bases: Annotated[str | None, Option("Bases of the pretrained weights: frozen, or trained too.")]
    additional: Annotated[int | None, Option("Of basis selection: new bases beside those of each weight.")]
    prunes: Annotated[int | None, Option("In how many steps bases are dropped; default 100.")]
    prune_schedule: Annotated[str | None, Option("cubic (less and less) or linear; default cubic.")]
    importance: Annotated[
        str | None, Option("What bases are ranked by: fisher, bsi or magnitude; default fisher.")
    ]
    scope: Annotated[
        str | None, Option("Rank bases of the model together (global) or of each target (target).")
    ]
    share: Annotated[float | None, Option("Of the training, in which bases are dropped.")]
    weights_rate: Annotated[float | None, Option("Learning rate of the bases' weights.")]


class Machine(TypedDict, total=False):
    """Where to run."""

    device: Annotated[str, Option("Where to run: cpu, cuda, cuda:1.", "cpu")]
    dtype: Annotated[str, Option("Load weights in: auto, float32, bfloat16, float16.", "auto")]


class Run(Machine, total=False):
    """Where and how to run."""

    merge: Merge
    drop_unused: DropUnused
    adapter: Adapter
    bos: Bos
    resume: Annotated[
        bool, Option("Go on with a run that was stopped, from its last checkpoint.", False, common=True)
    ]
    cache: Annotated[bool, Option("Keep what was observed of the data on disk, for the next run.", True)]
    blocks: Annotated[
        bool | None,
        Option(
            "One block of the model in memory at a time, or all of it; default as fits.",
            flag="--blocks/--whole",
        ),
    ]
    memory: Annotated[
        int | None,
        Option("Memory to take at most, as 8GB; default what is free.", metavar="SIZE", parse=size),
    ]
