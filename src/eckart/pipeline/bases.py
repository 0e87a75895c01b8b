"""The bases of a model's weights, and what they mean in tokens."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eckart import checkpoint, linalg
from eckart.model import loading, meaning, replacing
from eckart.model.targets import Found, weight_of
from eckart.report.bases import page
from eckart.structures import structure_of
from eckart.types import Basis, EckartError, Target, Track, UsageError, silent

BASES, TOP = 8, 10
"""Bases of each target, and tokens at either end of each, unless told otherwise."""

ROUNDING = 1e-7
"""Singular values below this share of the largest are rounding, and their vectors chance: of factors, all
beyond their rank."""


@dataclass(frozen=True)
class Bases:
    """What `eckart.bases` gives back.

    Attributes:
        out: the folder with `bases.json` and `bases.html`, if one was asked for.
        model: what was looked at.
        targets: each with its leading bases, in the model's order.
        notes: what a reader should know.
        seconds: wall time.
    """

    out: str | None
    model: str
    targets: list[tuple[Target, list[Basis]]]
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain data, as in `bases.json`."""
        return {
            "out": self.out,
            "model": self.model,
            "targets": [
                {
                    "name": target.name,
                    "shape": [target.out_features, target.in_features],
                    "bases": [basis.model_dump() for basis in found],
                }
                for target, found in self.targets
            ],
            "notes": self.notes,
            "seconds": self.seconds,
        }


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
    track: Track = silent,
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
        out: a folder for `bases.json` and `bases.html`; it must not exist.
        targets: endings of module names or globs; default every linear layer in the blocks.
        layers: which blocks, e.g. `top:4` or `3-7`; default all.
        bases: of each target at most, from 1. Of factors no more than their rank.
        top: tokens at either end of a basis, from 1.
        tokenizer: for a loaded model; a folder brings its own.
        device: where to run, e.g. `cuda`.
        track: shows progress.

    Raises:
        UsageError: the request is wrong, or there is no tokenizer, head or embedding; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    started = time.perf_counter()
    for option, value in (("bases", bases), ("top", top)):
        if value < 1:
            raise UsageError(f"--{option} {value}: it is 1 or more")
    if out is not None:
        checkpoint.refuse_existing(Path(out))
    if isinstance(model, (str, Path)):
        folder = loading.find_model(model)
        source = loading.name_of(model, folder)
        config = loading.load_config(folder)
        meaning.refuse_quantized(config)
        checkpoint.open_checkpoint(folder)
        if not loading.has_tokenizer(folder):
            raise UsageError(f"{folder} has no tokenizer, and bases are named by tokens: save one there")
        tokenizer = loading.load_tokenizer(folder)
        outline = _outline(config)
        meaning.unembedding_of(outline)
        found = meaning.find_weights(outline, targets, layers)
        model = loading.load_model(folder, device)
    else:
        if tokenizer is None:
            raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
        meaning.require_loaded(model)
        source = Path(getattr(model.config, "name_or_path", "")).name or type(model).__name__
        found = meaning.find_weights(model, targets, layers)
    replacing.require_finite(model)
    unembedding = meaning.Unembedding(model, tokenizer)
    named = [
        (target, _named(_weight(model, target.name), unembedding, bases, top))
        for target in track(found.targets, "decomposing", len(found.targets))
    ]
    made = Bases(
        out=None if out is None else str(out),
        model=source,
        targets=named,
        notes=_notes(model, found, unembedding.width),
        seconds=time.perf_counter() - started,
    )
    if out is not None:
        with checkpoint.appearing(Path(out)) as temporary:
            (temporary / "bases.json").write_text(
                json.dumps(made.as_json(), indent=1) + "\n", encoding="utf-8"
            )
            (temporary / "bases.html").write_text(page(source, named, made.notes), encoding="utf-8")
    return made


def _outline(config: Any) -> Any:
    """The model of a config without its weights."""
    try:
        return loading.build_empty(config)
    except ValueError as error:
        raise EckartError(str(error)) from error


def _weight(model: Any, name: str) -> Tensor:
    """The weight `(out, in)` of a target, dense: the product where it is in factors."""
    module = model.get_submodule(name)
    if structure_of(module) is not None:
        return replacing.dense_of(module)[0]
    return weight_of(module)


def _named(weight: Tensor, unembedding: meaning.Unembedding, count: int, top: int) -> list[Basis]:
    identity = linalg.Side()
    solved = linalg.decompose(weight, identity, identity, rank=count)
    energy = float(solved.spectrum.tail[0])
    values = [float(value) for value in solved.spectrum.values[:count]]
    values = [value for value in values if value > ROUNDING * values[0]]
    if not values:
        return []
    _, V = solved.factors(weight, len(values))
    reads = unembedding.top(V, top)
    writes = unembedding.top(solved.basis[:, : len(values)].T, top)
    return [
        Basis(
            index=index,
            value=value,
            share=value**2 / energy,
            reads=None if reads is None else reads[index],
            writes=None if writes is None else writes[index],
        )
        for index, value in enumerate(values)
    ]


def _notes(model: Any, found: Found, width: int) -> list[str]:
    targets = found.targets
    notes = [note.replace("stays dense", "is left out") for note in found.notes]
    if not meaning.has_head(model):
        notes.append("the model has no head: its bases are named through its input embeddings")
    if not any(width in (target.out_features, target.in_features) for target in targets):
        notes.append(f"no basis has tokens: the unembedding is {width} wide, and no side of these weights is")
    square = [target for target in targets if target.out_features == target.in_features == width]
    if square:
        notes.append(
            f"{len(square)} weights are square: where one ends in attention's heads (queries, keys, values) "
            "or begins there (the output projection), the tokens of that side mean little"
        )
    return notes
