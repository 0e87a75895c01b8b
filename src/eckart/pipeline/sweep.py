"""`sweep`: one loaded model, truncated at many choices of layers, matrices and ratios, each measured."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eckart import recipes
from eckart.evaluation.progress import shown
from eckart.model import loading
from eckart.recipes import verbs
from eckart.recipes.calling import checked
from eckart.sweeping.models import load_swept, require_swept
from eckart.sweeping.request import Cuts, Measurement, Saving, make_request
from eckart.sweeping.running import OnCell, SweepRun
from eckart.types import Sweep, Track

CONTINUATION = 40
"""Tokens that a prompt is continued by."""


@checked(verbs.Sweep)
def sweep(
    model: Any,
    out: str | Path | None = None,
    *,
    ratios: Sequence[float],
    layers: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    structure: str | None = None,
    task: str | None = None,
    data: str | None = None,
    fields: str | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    batch: int | None = None,
    allow_code_execution: bool = False,
    prompts: str | Sequence[str] = (),
    continuation: int = CONTINUATION,
    search: bool = False,
    grid: bool | None = None,
    save: str | Path | None = None,
    cell: str | None = None,
    merge: bool = False,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    drop_unused: bool = False,
    debug: bool = False,
    track: Track = shown,
    on_cell: OnCell | None = None,
) -> Sweep:
    """LASER: truncate chosen weights of chosen layers, and measure what that does to the model.

    Weights are decomposed once, at the largest rank that is asked for, and truncated where they stand; the
    model is dense again afterwards, also after an error. Models of the grid that come to the same weights
    at the same ranks are measured once. `out` gets `sweep.json`, `cells.csv`, of a search `steps.csv`, and
    `report.html`; each measurement is on the disk as soon as it is there, and the same request goes on
    with those of a sweep that was stopped. What failed is measured again.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model with its `tokenizer`.
        out: a new folder, or one with the same sweep begun. Without it nothing is kept.
        ratios: rank as a share of each weight's smaller side, rounded down and at least 1.
        layers: choices of blocks, each as for `compress`, with `A..B` for one choice for each number:
            `top:1..12`. Default `top:1..12`, or as far as the model goes; of a search alone every block.
        targets: choices of kinds of matrix, each names or globs by comma; default all together.
        structure: what a cut weight is counted and saved as, where that is cheaper than its product; default
            that of the method `laser`.
        task, data, fields, limit, max_length, max_new_tokens, batch, allow_code_execution: as for `evaluate`.
        prompts: to be continued by every model, by `continuation` tokens, greedily.
        search: the paper's greedy search, from the last block to the first, over the targets and layers
            named. It looks at every fifth text; all else is then measured on the others.
        grid: whether every ratio is tried with every choice; default unless there is a search.
        save: a folder for one of the models, as `compress` would save it: of a search what it found, else the
            best of the grid, or the one that `cell` names as `RATIO:LAYERS` or `RATIO:LAYERS:TARGETS`.
        merge: save it dense again, as large as before.
        device, dtype, drop_unused: as for `evaluate`.
        debug: show the tracebacks of models that fail on standard error.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.
        on_cell: called with each model of the grid, the dense one first, once it is measured.

    Returns:
        What is in `sweep.json`. A model that could not be measured has an `error`, and there is a note on it.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the dense model could not be measured, or nothing could be written.
    """
    options = {
        "fields": fields,
        "limit": limit,
        "max_length": max_length,
        "max_new_tokens": max_new_tokens,
        "batch": batch,
        "allow_code_execution": allow_code_execution or None,
    }
    request = make_request(
        Cuts(ratios, layers, targets, structure or recipes.find_method("laser").structure),
        Measurement(task, data, options, prompts, continuation),
        Saving(save, cell, merge),
        search,
        grid,
        out,
    )
    if isinstance(model, (str, Path)):
        with loading.dropping(drop_unused):
            swept = load_swept(model, request, device, dtype)
    else:
        swept = require_swept(model, tokenizer, request)
    return SweepRun(swept, request, None if out is None else Path(out), debug, track, on_cell).run()
