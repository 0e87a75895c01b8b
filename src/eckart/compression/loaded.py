"""A loaded model cut in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart.calibrate.observing import MomentCache
from eckart.compression.course import Course, require_replaceable
from eckart.compression.folder.manifests import Before, make_manifest
from eckart.compression.memory_store import MemoryStore
from eckart.compression.selection import select
from eckart.estimate import budget
from eckart.estimate.prices import Prices
from eckart.evaluation import Reference
from eckart.model import channels, replacing
from eckart.model.text import Batch
from eckart.recovery import learning
from eckart.recovery.runs import TrainingSetup
from eckart.types import Manifest, Recipe, Text, Track, TrainingRecord, silent


@dataclass(frozen=True)
class Loaded:
    """A model in memory, and where it came from.

    Attributes:
        source: its name.
        folder: that it was loaded from, as it is; moments are kept on disk for it, if `cache`.
    """

    model: Any
    tokenizer: Any
    source: str = ""
    folder: Path | None = None
    cache: bool = True


def prepare(loaded: Loaded, recipe: Recipe, texts: Sequence[Text], track: Track = silent) -> Course:
    """Observe a dense model, which is then ready to be cut to any number of sizes.

    Args:
        texts: what to calibrate on.

    Raises:
        UsageError: the recipe asks for what the model or the data does not have.
    """
    model = loaded.model
    found = channels.find_targets(model, recipe.targets, recipe.layers, recipe.structures)
    require_replaceable(model, found.targets, recipe)
    prices = Prices.of(model, found.targets, recipe)
    budget.require_possible(prices.sites(found.targets), recipe, prices)
    channels.require_elementwise(model, found.targets)
    store = MemoryStore(
        model,
        loaded.tokenizer,
        found.targets,
        recipe,
        texts,
        track,
        MomentCache(loaded.cache, loaded.folder),
    )
    store.notes[:0] = found.notes
    return Course(store, store.targets, recipe, tokens=store.tokens)


def compress_loaded(
    loaded: Loaded,
    recipe: Recipe,
    texts: Sequence[Text],
    setup: TrainingSetup | None = None,
    merge: bool = False,
    track: Track = silent,
    held: Sequence[Batch] = (),
) -> Manifest:
    """Cut a loaded model in place and, with a training setup, train what is left.

    Args:
        texts: what to calibrate on.
        merge: whether structures are made dense weights again.
        held: with a training, what is neither calibrated on nor learned from.
    """
    model = loaded.model
    before = Before.of(model, loaded.source)
    if setup:
        model.float()
    course = prepare(loaded, recipe, texts, track)
    if setup:
        reference = Reference(held, model) if held else None
    else:
        reference = None if course.store.divided.chooses else course.store.reference()
    runs: list[TrainingRecord] = []
    if setup and recipe.selection is not None:
        cut, runs = select(course.bench, recipe, setup)
    else:
        whole = course.cut(recipe)
        assert whole is not None
        cut = whole
        if setup:
            runs.append(setup.recover(model)[1])
            cut = cut.trained()
    if setup:
        learning.cast(model, model.config)
    cut = course.rounded(cut, recipe)
    if merge:
        replacing.merge(model)
        cut = cut.merged()
    narrow = channels.make_plain(model) if recipe.quantize is None else []
    if reference is not None:
        cut = cut.measured(reference, course.store.moved(reference))
    replacing.describe(model)
    notes = [*course.store.notes, *narrow]
    manifest = make_manifest(model, before, recipe, cut, course.tokens, notes, runs, merged=merge)
    manifest.narrow = bool(narrow)
    return manifest
