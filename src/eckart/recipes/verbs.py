"""Which options each verb has: groups of `options`, and those of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, TypedDict, get_args, get_type_hints

from eckart.recipes import options
from eckart.recipes.names import TASKS
from eckart.recipes.options import Option
from eckart.types import MAX_LENGTH

TASKS_HELP = f"{', '.join(TASKS[:-1])}, or {TASKS[-1]} for any task of lm-evaluation-harness."
Task = Annotated[str | None, Option(TASKS_HELP, common=True)]
Limit = Annotated[
    int | None, Option("Texts, pairs, problems or samples to use at most; of running text windows.")
]
MaxNewTokens = Annotated[int | None, Option("Tokens of an answer at most; default by the task.")]
PromptsAtOnce = Annotated[int | None, Option("Prompts at once; default 16.")]
AllowCodeExecution = Annotated[bool, Option("Run code that the model wrote, on this machine.", False)]


class Reading(TypedDict, total=False):
    """How a model is read."""

    drop_unused: options.DropUnused


class Cut(options.Size, options.Axes, options.Targets, options.Calibration, options.Selection, total=False):
    """What makes a recipe of one cut."""


class Compress(Cut, options.Training, options.Run, total=False):
    """Of `compress`."""


class Plan(options.Sizes, options.Form, options.Targets, Reading, total=False):
    """Of `plan`."""


class Lora(TypedDict, total=False):
    """Adapters, instead of a cut."""

    lora: Annotated[bool, Option("Instead of a cut: what adapters on the targets would cost.", False)]
    ranks: Annotated[Sequence[int] | None, Option("Of the adapters, by comma; default 4,8,16,32,64.")]


class PlanOrLora(Plan, Lora, total=False):
    """Of `plan` and `plan_lora`."""


class Texts(TypedDict, total=False):
    """Data to learn from."""

    data: options.DataFile
    fields: options.Fields
    on: options.On
    samples: Annotated[int | None, Option("Texts of the data to use at most.")]
    max_length: Annotated[int | None, Option(f"Tokens in a window at most; default {MAX_LENGTH}.")]


class Teacher(TypedDict, total=False):
    """How a teacher is imitated: as `eckart.recovery.distillation.Distillation`."""

    teacher: Annotated[
        str | None, Option("The dense model, to be imitated: a folder, a hub id.", common=True)
    ]
    temperature: Annotated[float | None, Option("Of both models' logits, with --teacher.")]
    labels: Annotated[float | None, Option("Share of the labels' own loss, with --teacher.")]
    hidden: Annotated[float | None, Option("Weight of the hidden states, with --teacher.")]


class TrainingRun(TypedDict, total=False):
    """Where and how to train."""

    device: Annotated[str, Option("Where to run: cpu, cuda, cuda:1.", "cpu")]
    dtype: Annotated[str, Option("Train the weights in; they are saved in the folder's own.", "float32")]
    bos: options.Bos
    resume: Annotated[
        bool, Option("Go on with a run that was stopped, from its last checkpoint.", False, common=True)
    ]


class Recover(Texts, Teacher, options.Training, options.Adapters, TrainingRun, Reading, total=False):
    """Of `recover`."""


class Methods(TypedDict, total=False):
    """What is compared, at which sizes."""

    keep: Annotated[
        Sequence[float],
        Option("Sizes, by comma: parameters after / parameters before, as 80%,60%.", (), common=True),
    ]
    of: options.Of
    methods: Annotated[
        Sequence[str] | None,
        Option(
            "Rows of the catalogue, by comma, with other axes after colons: svd,kfac:pivoted, auto:int8; "
            "dense:int8 is the dense model rounded. Default all, those that train only with --tokens or "
            "--epochs.",
            common=True,
        ),
    ]


class Compared(TypedDict, total=False):
    """What every model is measured by."""

    task: Annotated[
        str | None, Option("As for evaluate; default perplexity, or stsb for an encoder.", common=True)
    ]
    test: Annotated[
        str | None,
        Option("What the task reads; without it, texts that are held out of --data.", common=True),
    ]
    limit: Annotated[int | None, Option("Texts, pairs or samples of the task to use at most.")]


class Compare(
    Methods,
    options.Targets,
    options.Windows,
    Compared,
    options.Training,
    options.Machine,
    Reading,
    total=False,
):
    """Of `compare`."""


class Evaluate(TypedDict, total=False):
    """Of `evaluate`, beside its task."""

    data: options.DataFile
    fields: options.Fields
    on: options.On
    limit: Limit
    shots: Annotated[int | None, Option("So many of --examples before each prompt.")]
    against: Annotated[
        str | None,
        Option("The dense model, to compare with token by token: a folder, a hub id.", common=True),
    ]
    examples: Annotated[str | None, Option("A file of worked examples.")]
    max_new_tokens: MaxNewTokens
    batch: PromptsAtOnce
    k: Annotated[Sequence[int] | None, Option("Tries in pass@k, by comma.")]
    samples: Annotated[int | None, Option("Programs to write for each problem; default 1.")]
    temperature: Annotated[float | None, Option("To sample at; default 0, the likeliest token.")]
    seed: Annotated[int | None, Option("Of the sampling; default 0.")]
    allow_code_execution: AllowCodeExecution
    include: Annotated[str | None, Option("A folder with more tasks for lm-eval.")]
    adapter: options.Adapter
    bos: options.Bos
    max_length: Annotated[
        int | None,
        Option("Tokens at once at most; default 512 of texts to read, all that a writing model takes."),
    ]


class EvaluateRun(Evaluate, options.Machine, Reading, total=False):
    """Of `evaluate`."""


class Spectra(TypedDict, total=False):
    """What is computed and drawn."""

    fast: Annotated[bool, Option("Only the largest singular values, a sixteenth of them.", False)]
    ranks: Annotated[
        Sequence[int] | None,
        Option("That cosines are given at, by comma; default 1/8, 1/4, 1/2 and 3/4 of the smaller side."),
    ]
    png: Annotated[bool, Option("Draw the main figures as PNG files too.", False)]


class AnalyzeRun(TypedDict, total=False):
    """Where to compute."""

    device: Annotated[str, Option("Where to run: cpu, cuda, cuda:1.", "cpu")]
    cache: Annotated[bool, Option("Keep what was observed of the data on disk, for the next run.", True)]


class Analyze(Spectra, options.Targets, options.Data, AnalyzeRun, Reading, total=False):
    """Of `analyze`."""


class Grid(TypedDict, total=False):
    """What is tried."""

    ratios: Annotated[
        Sequence[float],
        Option("Ranks to try, by comma, as shares of the smaller side.", common=True, required=True),
    ]
    layers: Annotated[
        Sequence[str] | None,
        Option(
            "A choice of blocks, as top:4, 0-3 or 5; top:1..12 is twelve choices. May be repeated; default "
            "top:1..12, or as far as the model goes; of --search alone every block.",
            repeated=True,
        ),
    ]
    targets: Annotated[
        Sequence[str] | None,
        Option(
            "A choice of kinds, module-name endings or globs by comma. May be repeated; default all.",
            repeated=True,
        ),
    ]
    structure: Annotated[
        str, Option("What a cut weight is counted and saved as: lowrank or pivoted.", "lowrank")
    ]
    search: Annotated[
        bool,
        Option(
            "The paper's greedy search, matrix by matrix from the last block, on every fifth text; all "
            "else is then measured on the others.",
            False,
        ),
    ]
    grid: Annotated[bool | None, Option("Try every ratio with every choice; default without --search.")]


class Judged(TypedDict, total=False):
    """What every model is measured by."""

    task: Annotated[str | None, Option(f"What to measure: {TASKS_HELP}", common=True)]
    data: options.DataFile
    fields: options.Fields
    limit: Limit
    max_length: Annotated[int | None, Option("Tokens at once at most, as for evaluate.")]
    max_new_tokens: MaxNewTokens
    batch: PromptsAtOnce
    allow_code_execution: AllowCodeExecution
    prompts: Annotated[
        Sequence[str] | None,
        Option(
            "A text that every model continues, greedily. May be repeated.", flag="--prompt", repeated=True
        ),
    ]
    continuation: Annotated[int, Option("Tokens that a prompt is continued by.", 40)]


class Saved(TypedDict, total=False):
    """Which model is saved."""

    save: Annotated[
        str | None,
        Option("A folder for one of the models: what the search found, else the best, or --cell."),
    ]
    cell: Annotated[
        str | None,
        Option("Which one to save, as 0.25:top:2, or best.", metavar="RATIO:LAYERS[:TARGETS]"),
    ]
    merge: options.Merge


class Sweep(Grid, Judged, Saved, options.Machine, Reading, total=False):
    """Of `sweep`."""


class Timed(TypedDict, total=False):
    """What is timed."""

    batches: Annotated[Sequence[int], Option("Sequences at once, by comma.", (1,), flag="--batch")]
    tokens: Annotated[
        int, Option("Tokens to read, and in the cache when writing begins.", 256, flag="--prompt")
    ]
    new: Annotated[int, Option("Tokens to write in a round.", 16)]
    rounds: Annotated[int, Option("Each is both models once; medians are shown.", 7)]
    fuse: Annotated[bool, Option("Compute one V for what reads the same input, as eckart.fuse does.", False)]
    compiled: Annotated[
        bool, Option("Compile both models by torch, on a GPU with its graphs.", False, flag="--compile")
    ]
    memory: Annotated[bool, Option("Measure peak memory too, in a process for each model.", True)]


class Bench(Timed, options.Machine, Reading, total=False):
    """Of `bench`."""


class BasesRead(TypedDict, total=False):
    """What is read of bases."""

    bases: Annotated[int | None, Option("Bases of each target at most; default 8.")]
    top: Annotated[int | None, Option("Tokens at either end of a basis; default 10.")]
    device: Annotated[str, Option("Where to run: cpu, cuda, cuda:1.", "cpu")]


class Bases(options.Targets, BasesRead, Reading, total=False):
    """Of `bases`."""


GROUPS: Mapping[type, Mapping[str, type]] = {
    Cut: {
        "size": options.Size,
        "axes": options.Axes,
        "targets": options.Targets,
        "data": options.Calibration,
        "selection": options.Selection,
    },
    Compress: {
        "size": options.Size,
        "axes": options.Axes,
        "targets": options.Targets,
        "data": options.Calibration,
        "training": options.Training,
        "selection": options.Selection,
        "run": options.Run,
    },
    Plan: {"size": options.Sizes, "axes": options.Form, "targets": options.Targets, "reading": Reading},
    PlanOrLora: {
        "size": options.Sizes,
        "axes": options.Form,
        "targets": options.Targets,
        "reading": Reading,
        "adapters": Lora,
    },
    Recover: {
        "data": Texts,
        "teacher": Teacher,
        "training": options.Training,
        "adapters": options.Adapters,
        "run": TrainingRun,
        "reading": Reading,
    },
    Compare: {
        "methods": Methods,
        "targets": options.Targets,
        "data": options.Windows,
        "task": Compared,
        "training": options.Training,
        "run": options.Machine,
        "reading": Reading,
    },
    EvaluateRun: {"task": Evaluate, "run": options.Machine, "reading": Reading},
    Analyze: {
        "spectra": Spectra,
        "targets": options.Targets,
        "data": options.Data,
        "run": AnalyzeRun,
        "reading": Reading,
    },
    Sweep: {"grid": Grid, "task": Judged, "saved": Saved, "run": options.Machine, "reading": Reading},
    Bench: {"timing": Timed, "run": options.Machine, "reading": Reading},
    Bases: {"targets": options.Targets, "bases": BasesRead, "reading": Reading},
}
"""The groups of each verb, by the names that `--help` has them under and a recipe file may."""

TRAINED = (options.Training, options.Adapters)
"""Groups that are the settings of a training."""


@cache
def hints(kind: type) -> dict[str, Any]:
    """The annotated type of each option of a group or verb."""
    return get_type_hints(kind, include_extras=True)


@cache
def fields(kind: type) -> dict[str, Option]:
    """The options of a group or verb by their names."""
    return {name: hint.__metadata__[0] for name, hint in hints(kind).items()}


def kind_of(hint: Any) -> Any:
    """`str`, `int`, `float`, `bool`, or a sequence of them: the type of a value that is given."""
    inner = hint.__origin__
    return (
        next((each for each in get_args(inner) if each is not NoneType), inner)
        if isinstance(inner, UnionType)
        else inner
    )


def flag(kind: type, name: str) -> str:
    """What gives an option on the command line, as `--max-loss` or `--cache/--no-cache`."""
    option = fields(kind)[name]
    said = option.flag or f"--{name.replace('_', '-')}"
    if kind_of(hints(kind)[name]) is not bool or "/" in said:
        return said
    return f"{said}/--no-{said.removeprefix('--')}"
