"""A loaded model cut as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eckart.compression.cutting import Prepared
from eckart.compression.manifests import Before, make_manifest
from eckart.compression.selection import select
from eckart.model import replacing
from eckart.recovery import learning
from eckart.recovery.runs import TrainingSetup
from eckart.types import Manifest, Recipe, Text, Track


def compress_in_place(
    model: Any,
    tokenizer: Any,
    recipe: Recipe,
    texts: Sequence[Text],
    source: str,
    track: Track,
    folder: Path | None,
    cache: bool,
    setup: TrainingSetup | None,
    merge: bool = False,
) -> Manifest:
    """Cut a loaded model and, with a training setup, train what is left; what was done, for its manifest.

    Args:
        texts: what to calibrate on.
        source: the model's name.
        folder: where it was loaded from; moments are kept on disk for it, if `cache`.
        merge: whether the factors are multiplied out again.
    """
    before = Before.of(model)
    if setup:
        model.float()
    prepared = Prepared(model, tokenizer, recipe, texts, track, folder=folder, cache=cache)
    if setup and recipe.selection is not None:
        cut, runs = select(prepared.bench, recipe, setup)
    else:
        cut, runs = prepared.cut(recipe), []
        if setup:
            runs.append(setup.recover(model)[1])
            cut = cut.trained()
    if setup:
        learning.cast(model, model.config)
    cut = prepared.rounded(cut, recipe)
    if merge:
        replacing.merge(model)
        cut = cut.merged()
    replacing.describe(model)
    return make_manifest(
        model, before, recipe, source, cut, prepared.tokens, prepared.notes, runs, merged=merge
    )
