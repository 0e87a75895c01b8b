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
from eckart.recovery.lessons import Lessons
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
    lessons: Lessons | None,
    merge: bool = False,
) -> Manifest:
    """Cut a loaded model and, with lessons, train what is left; what was done, for its manifest.

    Args:
        texts: what to calibrate on.
        source: the model's name.
        folder: where it was loaded from; moments are kept on disk for it, if `cache`.
        merge: whether the factors are multiplied out again.
    """
    before = Before.of(model)
    if lessons:
        model.float()
    prepared = Prepared(model, tokenizer, recipe, texts, track, folder=folder, cache=cache)
    if lessons and recipe.selection is not None:
        cut, runs = select(prepared.bench, recipe, lessons)
    else:
        cut, runs = prepared.cut(recipe), []
        if lessons:
            runs.append(lessons.recover(model)[1])
            cut = cut.trained()
    if lessons:
        learning.cast(model, model.config)
    cut = prepared.rounded(cut, recipe)
    if merge:
        replacing.merge(model)
        cut = cut.merged()
    replacing.describe(model)
    return make_manifest(
        model, before, recipe, source, cut, prepared.tokens, prepared.notes, runs, merged=merge
    )
