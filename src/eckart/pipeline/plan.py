"""Sizes and ranks before anything is run: a config is enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from eckart.compression import requests
from eckart.compression.blocks.portion import needed
from eckart.compression.course import require_replaceable
from eckart.estimate import budget, counting
from eckart.estimate import time as pace
from eckart.estimate.planned import Plan, plan_site, planned_options
from eckart.estimate.prices import Prices
from eckart.estimate.suggested import KEEPS, Suggested, suggestion
from eckart.evaluation.machine import Stopwatch
from eckart.model import building, channels, loading, replacing
from eckart.model import targets as targets_
from eckart.recipes import files, making, reading, verbs
from eckart.recipes.describing import takes
from eckart.types import Bytes, Count, Recipe, UsageError


def dry_run(
    model: Any,
    out: str | Path | None,
    *,
    recipe: str | Path | Mapping[str, Any] | None = None,
    **options: Unpack[verbs.Compress],
) -> Plan:
    """What `compress` would do with the same options: all that it refuses at its start is refused here too.

    Raises:
        UsageError: the request is wrong, or how small the result is turns out only in the work.
    """
    model, found = files.asked(verbs.Compress, model, dict(options), recipe)
    asked = reading.completed(verbs.Compress, found)
    made, settings = making.recipe_of(model, asked, found.training)
    for name in ("max_loss", "energy"):
        if asked[name] is not None:
            said = verbs.flag(verbs.Compress, name)
            raise UsageError(f"--dry-run: how small the model of {said} is turns out in the work")
    requests.finished(out, asked["resume"])
    loading.require_device(asked["device"])
    with loading.dropping(made.drop_unused):
        folder, _, generates = requests.source_of(model, out, made)
    texts = requests.read_data(made, settings, generates)
    wanted = verbs.fields(verbs.Plan)
    given = {name: value for name, value in found.options.items() if name in wanted}
    planned = plan(model, **given | {"method": made.method})
    assert isinstance(planned, Plan)
    if folder is None:
        return planned
    efforts, tokens = requests.takes(folder, made, texts)
    return replace(planned, efforts=efforts, tokens=tokens)


@takes(verbs.Plan)
def plan(model: str | Path, **options: Unpack[verbs.Plan]) -> Plan | Suggested:
    """Count what a model would have left, and where ranks break even, with no weights and no data.

    Without a size it suggests some: what each comes to, and what it cost models that were measured.

    Args:
        model: a folder with at least a `config.json`, a hub id, a GGUF file, or `pocket`.

    Raises:
        UsageError: the request is wrong, or lower than the targets allow.
    """
    watch = Stopwatch()
    asked = reading.completed(verbs.Plan, reading.given(verbs.Plan, options))
    drop = asked.pop("drop_unused")
    sized = any(asked[dial] is not None for dial in reading.DIALS if dial in asked)
    recipes = [_recipe(asked)] if sized else [_recipe({**asked, "keep": keep}) for keep in KEEPS]
    folder = loading.find_model(model, weights=False)
    with loading.dropping(drop):
        config = loading.load_config(folder)
    loading.refuse_compressed(config)
    empty = building.build_empty(config)
    found = channels.find_targets(empty, asked["targets"], asked["layers"], recipes[0].structures)
    require_replaceable(empty, found.targets, recipes[0])
    counted = counting.count(folder, empty)
    # One for all sizes: what the options of a large model cost takes a while to work out.
    more = counted.parameters - replacing.count_parameters(empty)
    prices = Prices.of(empty, found.targets, recipes[0], more)
    if sized:
        return _plan(recipes[0], empty, found, counted, prices, watch)
    rows, refused = [], []
    for recipe in recipes:
        try:
            made = _plan(recipe, empty, found, counted, prices, watch)
        except UsageError as error:
            refused.append(str(error))
        else:
            rows.append(suggestion(recipe.keep or 1.0, made, loading.generates(config)))
    if not rows:
        raise UsageError(refused[0])
    notes = [*found.notes, *counted.notes, *refused[:1]]
    return Suggested(type(empty).__name__, recipes[0], rows, watch.seconds(), notes)


def _plan(
    recipe: Recipe,
    empty: Any,
    found: targets_.Found,
    counted: counting.Counted,
    prices: Prices,
    watch: Stopwatch,
) -> Plan:
    notes = [*found.notes, *counted.notes]
    before = counted.parameters
    sites = prices.sites(found.targets)
    chosen_options = planned_options(sites, recipe, prices, notes)
    notes += budget.dense_notes(sites, recipe, prices, chosen_options)
    pairs = list(zip(sites, chosen_options, strict=True))
    planned = [plan_site(site, option, prices) for site, option in pairs]
    targets_before = sum(row.parameters_before for row in planned)
    targets_after = sum(row.parameters_after for row in planned)
    after = before - targets_before + targets_after
    saved = prices.tensors + sum(prices.bytes(site, option) for site, option in pairs)
    return Plan(
        recipe=recipe,
        architecture=type(empty).__name__,
        parameters=Count(
            before=before,
            after=after,
            keep=after / before,
            targets_before=targets_before,
            targets_after=targets_after,
        ),
        bytes=Bytes(before=before * empty.dtype.itemsize, after=saved),
        sites=planned,
        seconds=watch.seconds(),
        memory=needed(empty, recipe),
        efforts=pace.by_effort(found.targets, empty, recipe, empty.dtype, pace.Reading()),
        tokens=pace.Reading().calibrating if making.needs_data(recipe) else None,
        embedding_parameters=counted.embedding_parameters,
        tied=counted.tied,
        notes=notes,
    )


def _recipe(asked: dict[str, Any]) -> Recipe:
    """What would be done, if there were data."""
    by_hand = asked["keep"] is None and asked["size"] is None
    asked = {**asked, "method": asked["method"] or ("svd" if by_hand else None)}
    made = making.make_recipe(**asked, data="(none needed to plan)")
    return made.model_copy(update={"data": None})
