"""Many methods under one protocol: one table, one plot."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Unpack

from eckart import checkpoint, folders
from eckart.comparison.methods import read_methods, read_sizes, read_training
from eckart.comparison.page import comparison_page
from eckart.comparison.pictures import draw
from eckart.comparison.protocol import (
    ComparisonFolder,
    Kept,
    Protocol,
    Request,
    axes,
    data_digest,
    model_digest,
)
from eckart.comparison.tasks import choose_task, choose_test
from eckart.comparison.workers import OnRow, Run
from eckart.evaluation import lower_is_better
from eckart.evaluation.progress import shown
from eckart.model import building, loading
from eckart.model import targets as targets_
from eckart.recipes import files, reading, verbs
from eckart.recipes.describing import takes
from eckart.recipes.names import DENSE
from eckart.report.files import PAGE
from eckart.types import Comparison, Recipe, Track, UsageError


@takes(verbs.Compare)
def compare(
    model: str | Path | None = None,
    out: str | Path | None = None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    debug: bool = False,
    track: Track = shown,
    on_row: OnRow | None = None,
    **options: Unpack[verbs.Compare],
) -> Comparison:
    """Cut one model by many methods to the same sizes, with the same data, and measure each on the same task.

    `out` gets `results.csv`, a row for each model with the dense one first, whole after every row;
    `compare.json`, the protocol; `report.html`; and `plot.svg` and `plot.png`. Rows that are there are not
    made again, those that failed are: methods and sizes can be added. Each method has a process of its own.

    Without a test the task reads the test split of built-in data; of a file every eighth text, which is then
    held out of what methods calibrate on. With options of `training` every model is trained so, on the data.

    Args:
        model: a folder, a hub id or `pocket`; default that of the recipe.
        out: folder to write in: a new one, or one with a comparison under the same protocol.
        recipe: a file of YAML or JSON with options, a `compare.json`, or a mapping; options given here win.
        training: options of `training` in a mapping; an empty one trains for an epoch.
        debug: show the tracebacks of rows that fail on standard error.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.
        on_row: called with each row once it is on the disk.

    Returns:
        All rows of the folder; there is a note on each that failed.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the dense model could not be measured, or the folder not be written.
    """
    model, found = files.asked(verbs.Compare, model, {"training": training, **options}, recipe)
    asked = reading.completed(verbs.Compare, found)
    if out is None:
        raise UsageError("compare writes into a folder: give out")
    sizes = read_sizes(asked["keep"])
    shared = {name: asked[name] for name in ("of", "targets", "layers", "data", "samples", "max_length")}
    chosen = read_methods(asked["methods"], sizes, shared, found.training is not None)
    settings = read_training(found.training, asked["max_length"], in_words=training is None)
    if asked["limit"] is not None and asked["limit"] < 1:
        raise UsageError(f"--limit {asked['limit']}: it is 1 or more")
    source = loading.find_model(model)
    with loading.dropping(asked["drop_unused"]):
        config = loading.load_config(source)
    loading.refuse_compressed(config)
    loading.require_dtype(asked["dtype"])
    loading.require_device(asked["device"])
    checkpoint.open_checkpoint(source)
    loading.load_tokenizer(source)
    where = targets_.find_targets(building.build_empty(config), asked["targets"], asked["layers"])
    data, task = asked["data"], choose_task(asked["task"], asked["test"], config)
    test, held_out, notes = choose_test(task, data, asked["test"], loading.generates(config))
    same: dict[str, Any] = {
        **{name: asked[name] for name in ("layers", "max_length", "limit", "device", "dtype", "drop_unused")},
        **next(iter(chosen.values()))[0].model_dump(include={"of", "targets"}),
        "task": task,
        "training": settings,
    }
    protocol = Protocol(
        model=model_digest(source),
        data=data_digest(data),
        test=data_digest(test),
        samples=asked["samples"],
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        **same,
    )
    kept = Kept(
        source=loading.name_of(model, source),
        data=data and Path(data).name,
        test=test and Path(test).name,
        asked={"model": str(model), "data": data, "test": asked["test"]},
        protocol=protocol,
        methods={label: axes(made[0]) for label, made in chosen.items()},
        keeps=sizes,
        notes=where.notes + notes,
    )
    folder = ComparisonFolder(Path(out), kept)
    cuts: dict[str, tuple[Recipe | None, list[float]]] = {DENSE: (None, [1.0])}
    cuts |= {label: (made[0], [each.keep or 1.0 for each in made]) for label, made in chosen.items()}
    reads: dict[str, Any] = {"model": str(source), "data": data, "test": test, "held_out": held_out}
    reads |= {"protocol": protocol, "debug": debug}
    requests = [
        Request(
            method=label,
            recipe=recipe and recipe.model_copy(update={"keep": max(missing)}),
            keeps=missing,
            **reads,
        )
        for label, (recipe, keeps) in cuts.items()
        if (missing := folder.missing(label, keeps))
    ]
    Run(folder, sum(len(request.keeps) for request in requests), track, on_row).all(requests)
    smaller = lower_is_better(folder.rows[0].metric or "")
    failed = [row for row in folder.rows if row.error]
    notes = folder.kept.notes + [f"{row.method} at {row.keep:g} failed: {row.error}" for row in failed]
    folders.replace_file(folder.out / PAGE, comparison_page(folder.kept, folder.rows))
    notes += draw(folder, smaller)
    return Comparison(str(out), folder.rows, notes, smaller)
