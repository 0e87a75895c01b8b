"""Many methods under one protocol: one table, one plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eckart import checkpoint, recipes, report, structures
from eckart.comparison.page import comparison_page
from eckart.comparison.protocol import (
    DENSE,
    ComparisonFolder,
    Kept,
    Protocol,
    Request,
    axes,
    data_digest,
    model_digest,
)
from eckart.comparison.workers import OnRow, Run
from eckart.data import is_built_in, read_texts
from eckart.data.splitting import hold_out
from eckart.evaluation import lower_is_better
from eckart.evaluation.measuring import COMPARED, read_material
from eckart.model import loading
from eckart.model import targets as targets_
from eckart.recipes import making
from eckart.recovery.settings import make_training
from eckart.report.files import PAGE
from eckart.types import (
    MAX_LENGTH,
    Comparison,
    Recipe,
    Track,
    UsageError,
    silent,
    unknown,
)

AXIS_VALUES: dict[str, tuple[str, ...]] = {
    "structure": tuple(structures.replacements()),
    "allocation": making.ALLOCATIONS,
    "recovery": making.RECOVERIES,
    "metric": tuple(recipes.METRICS),
}


def compare(
    model: str | Path,
    out: str | Path,
    *,
    keep: Sequence[float],
    methods: Sequence[str] | None = None,
    data: str | None = None,
    task: str | None = None,
    test: str | None = None,
    limit: int | None = None,
    of: str = "model",
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    samples: int | None = None,
    max_length: int = MAX_LENGTH,
    training: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    debug: bool = False,
    track: Track = silent,
    on_row: OnRow | None = None,
) -> Comparison:
    """Cut one model by many methods to the same sizes, with the same data, and measure each on the same task.

    `out` gets `results.csv`, a row for each model with the dense one first, whole after every row;
    `compare.json`, the protocol; `report.html`; and `plot.svg` and `plot.png`. Rows that are there already
    are not made again, those that failed are: so an interrupted comparison is gone on with, and methods and
    sizes can be added. Each method has a process of its own, which is ended with this one.

    Args:
        model: a folder, a hub id or `pocket`.
        out: folder to write in: a new one, or one with a comparison under the same protocol.
        keep: sizes, each above 0 and at most 1.
        methods: rows of the catalogue, each with other values on the axes after colons where wanted, as
            `kfac:pivoted:waterfill`; default all rows that the data allow
            and whose ranks are not given by hand.
        data: what methods calibrate on, as for `compress`.
        task: as for `evaluate`; default `perplexity` for a model that writes, else `stsb`.
        test: what the task reads. Without it the test split of built-in data; of a file every eighth text,
            which is then held out of what methods calibrate on.
        limit: texts, pairs or samples of the task at most; default all of a file, 200 of a pocket skill.
        of, targets, layers, samples, max_length, device, dtype: as for `compress`.
        training: train every model so, on `data`: its settings, as for `compress`. Methods that train by
            themselves, as basis selection, are compared only where all do.
        debug: show the tracebacks of rows that fail on standard error.
        track: shows progress.
        on_row: called with each row once it is on the disk.

    Returns:
        All rows of the folder. Those that failed have an `error`, and there is a note on each.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the dense model could not be measured, or the folder not be written.
    """
    if not isinstance(model, (str, Path)):
        raise UsageError(
            f"compare loads the model in a process for each method: give its folder or hub id, not a "
            f"{type(model).__name__} in memory"
        )
    sizes = _sizes(keep)
    shared = {
        "of": of,
        "targets": targets,
        "layers": layers,
        "data": data,
        "samples": samples,
        "max_length": max_length,
    }
    chosen = _recipes(methods, sizes, shared, training is not None)
    settings = None if training is None else make_training(**{"max_length": max_length, **training})
    if limit is not None and limit < 1:
        raise UsageError(f"--limit {limit}: it is 1 or more")
    source = loading.find_model(model)
    config = loading.load_config(source)
    loading.refuse_compressed(config)
    loading.require_dtype(dtype)
    loading.require_device(device)
    checkpoint.open_checkpoint(source)
    loading.load_tokenizer(source)
    found = targets_.find_targets(loading.build_empty(config), targets, layers)
    task = _task(task, test, config)
    test, held_out, notes = _test(task, data, test, loading.generates(config))
    first = next(iter(chosen.values()))
    protocol = Protocol(
        model=model_digest(source),
        of=first.of,
        targets=first.targets,
        layers=layers,
        data=data_digest(data),
        samples=samples,
        max_length=max_length,
        task=task,
        test=data_digest(test),
        limit=limit,
        training=settings,
        device=device,
        dtype=dtype,
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
    )
    kept = Kept(
        source=loading.name_of(model, source),
        data=data and Path(data).name,
        test=test and Path(test).name,
        protocol=protocol,
        methods={label: axes(recipe) for label, recipe in chosen.items()},
        keeps=sizes,
        notes=found.notes + notes,
    )
    folder = ComparisonFolder(Path(out), kept)
    whole: dict[str, tuple[Recipe | None, list[float]]] = {DENSE: (None, [1.0])}
    asked = whole | {label: (recipe, sizes) for label, recipe in chosen.items()}
    requests = [
        Request(
            model=str(source),
            method=label,
            recipe=recipe and recipe.model_copy(update={"keep": max(missing)}),
            keeps=missing,
            protocol=protocol,
            data=data,
            test=test,
            held_out=held_out,
            debug=debug,
        )
        for label, (recipe, keeps) in asked.items()
        if (missing := folder.missing(label, keeps))
    ]
    Run(folder, sum(len(request.keeps) for request in requests), track, on_row).all(requests)
    smaller = lower_is_better(folder.rows[0].metric or "")
    notes = folder.kept.notes + [
        f"{row.method} at {row.keep:g} failed: {row.error}" for row in folder.rows if row.error
    ]
    notes += _plot(folder, smaller)
    return Comparison(str(out), folder.rows, notes, smaller)


def _sizes(keep: Sequence[float]) -> list[float]:
    sizes = [float(size) for size in keep]
    if not sizes:
        raise UsageError("--keep is empty: name a size at least, as 0.9,0.8")
    _refuse_twice("keep", [f"{size:g}" for size in sizes])
    return sizes


def _recipes(
    methods: Sequence[str] | None, sizes: list[float], shared: dict[str, Any], trained: bool
) -> dict[str, Recipe]:
    """A recipe for each method by its label, at the first of the sizes; every size is checked."""
    if methods is None:
        making.make_recipe(method="svd", keep=sizes[0], **shared)
        methods = [
            name
            for name, row in recipes.METHODS.items()
            if _allowed(name, shared)
            and not row.by_hand
            and (trained or row.recovery not in recipes.SELECTIONS)
        ]
    labels = [":".join(part.strip() for part in method.split(":")) for method in methods]
    if not labels:
        raise UsageError("--methods is empty: name a row of the catalogue at least (eckart methods)")
    _refuse_twice("method", labels)
    found = {}
    for label in labels:
        made = [making.make_recipe(**_choices(label), **shared, keep=size) for size in sizes]
        found[label] = made[0]
        if made[0].selection is not None and not trained:
            raise UsageError(
                f"{label} trains: say how long (--tokens or --epochs), and every method is trained as long"
            )
    if trained and shared["data"] is None:
        raise UsageError("training needs something to learn from: give --data FILE")
    return found


def _allowed(name: str, shared: dict[str, Any]) -> bool:
    """Whether the data allow a row of the catalogue."""
    try:
        making.make_recipe(method=name, keep=1.0, **shared)
    except UsageError:
        return False
    return True


def _choices(label: str) -> dict[str, Any]:
    """The method and the axes that a label names."""
    name, *values = label.split(":")
    found = {"method": recipes.find_method(name).name}
    for value in values:
        axis = next((axis for axis, known in AXIS_VALUES.items() if value in known), None)
        if axis is None:
            known = [value for values in AXIS_VALUES.values() for value in values]
            raise UsageError(f"method {label}: {unknown('value', value, known)}")
        if axis in found:
            raise UsageError(f"method {label}: {found[axis]} and {value} are both a {axis}")
        found[axis] = value
    return found


def _refuse_twice(kind: str, names: list[str]) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{kind} {twice} is named twice")


def _task(task: str | None, test: str | None, config: Any) -> str:
    """The task that is meant, which the model can do."""
    writes, kind = loading.generates(config), loading.model_class(config).__name__
    if task is None:
        task = "perplexity" if writes else "stsb"
    if task not in COMPARED:
        raise UsageError(unknown("task", task, COMPARED))
    if task == "stsb" and writes:
        raise UsageError(f"{kind} gives no hidden states to pool: stsb is for encoders")
    if task == "stsb" and test is None:
        raise UsageError("task stsb needs sentence pairs: give --test FILE")
    if task != "stsb" and not writes:
        raise UsageError(
            f"{kind} predicts no next token, and task {task} needs a model that does: give --task stsb"
        )
    if task not in ("perplexity", "stsb") and test is not None:
        raise UsageError(f"task {task} brings its own data: leave --test {test} out")
    return task


def _test(task: str, data: str | None, test: str | None, writes: bool) -> tuple[str | None, bool, list[str]]:
    """What the task reads, whether that is held out of the data instead, and what to tell. All is read once.

    Raises:
        UsageError: there is nothing to measure on, or what is there is no text.
    """
    texts = read_texts(data, lines=not writes) if data is not None else []
    if task not in ("perplexity", "stsb"):
        return None, False, []
    if test is None and data is not None and is_built_in(data):
        test = data
    if test is not None:
        read_material(task, test, writes)
        seen = data is not None and not is_built_in(test) and data_digest(test) == data_digest(data)
        return test, False, ["methods calibrate on what the task is measured on"] if seen else []
    if data is None:
        raise UsageError(f"task {task} needs texts: give --test FILE, or --data FILE to hold some out of")
    _, held = hold_out(texts)
    if not held:
        raise UsageError(
            f"{data} has too few texts ({len(texts)}) to hold every eighth out: give --test FILE for the task"
        )
    return (
        None,
        True,
        [
            f"without --test, {task} is measured on every eighth text of {Path(data).name}, {len(held)} of "
            f"{len(texts)}, which methods do not calibrate on"
        ],
    )


def _plot(folder: ComparisonFolder, smaller: bool) -> list[str]:
    """Write the page and the pictures; a note where there is nothing to draw the latter with."""
    checkpoint.replace_file(folder.out / PAGE, comparison_page(folder.kept, folder.rows))
    try:
        pictures = report.draw(folder.rows, smaller)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        return ['no plot: it needs matplotlib; pip install "eckart[report]"']
    for name, content in pictures.items():
        checkpoint.replace_file(folder.out / name, content)
    return []
