"""The bases of a model's weights, and what they mean in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from eckart import folders
from eckart.analysis.bases import Bases, load_named, name_bases, require_named, write
from eckart.evaluation.machine import Stopwatch
from eckart.evaluation.progress import shown
from eckart.model import loading
from eckart.recipes import verbs
from eckart.recipes.calling import checked
from eckart.types import Track, UsageError

BASES, TOP = 8, 10
"""Bases of each target, and tokens at either end of each, unless told otherwise."""


@checked(verbs.Bases)
def bases(
    model: Any,
    out: str | Path | None = None,
    *,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    bases: int = BASES,
    top: int = TOP,
    tokenizer: Any = None,
    device: str = "cpu",
    drop_unused: bool = False,
    track: Track = shown,
) -> Bases:
    """Name the leading bases of a model's weights by tokens (Ferrando & Voita 2024, Basis Selection).

    A weight is `Σ σ u vᵀ`. What a basis reads (`v`) is projected on the unembedding where the weight's inputs
    are as wide as the hidden state, and what it writes (`u`) where its outputs are. The signs of `u` and `v`
    flip together; here the largest entry of `u` is positive.

    Width is all that tells where a side lives. The output side of a query, key or value weight is in the
    heads, and so is the input side of the output projection: where such a weight is square they are given
    tokens too, which mean little. Norms are left out: what a weight reads was normed and scaled before.

    Args:
        model: a folder (dense, or one that Eckart wrote), a hub id, `pocket`, or a loaded transformers model
            with its `tokenizer`, which is left as it is.
        out: a folder for `bases.json` and `report.html`; it must not exist.
        targets: endings of module names or globs; default every linear layer in the blocks.
        layers: which blocks, e.g. `top:4` or `3-7`; default all.
        bases: of each target at most, from 1. Of factors no more than their rank.
        top: tokens at either end of a basis, from 1.
        tokenizer: for a loaded model; a folder brings its own.
        device: where to run, e.g. `cuda`.
        drop_unused: read the model without tensors that its class has no weight for, instead of refusing.
        track: shows progress; default a bar in a notebook or on a terminal, and lines in the log `eckart`.

    Raises:
        UsageError: the request is wrong, or there is no tokenizer, head or embedding; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    watch = Stopwatch()
    for option, value in (("bases", bases), ("top", top)):
        if value < 1:
            raise UsageError(f"--{option} {value}: it is 1 or more")
    if out is not None:
        folders.refuse_existing(Path(out))
    if isinstance(model, (str, Path)):
        with loading.dropping(drop_unused):
            named = load_named(model, targets, layers, device)
    else:
        loading.require_transformers(model)
        named = require_named(model, tokenizer, targets, layers)
    made = name_bases(named, bases, top, track)
    made = replace(made, out=None if out is None else str(out), seconds=watch.seconds())
    if out is not None:
        write(made, Path(out))
    return made
