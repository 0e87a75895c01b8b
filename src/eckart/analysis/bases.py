"""The leading bases of a model's weights, each named by tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from eckart import checkpoint, folders, linalg
from eckart.model import building, loading, meaning, replacing
from eckart.model.targets import Found, weight_of
from eckart.report.bases import page
from eckart.report.files import PAGE, Files
from eckart.structures import structure_of
from eckart.types import Basis, EckartError, Sample, SavedBases, Shown, Target, Track, UsageError

ROUNDING = 1e-7
"""Singular values below this share of the largest are rounding, and their vectors chance: of factors, all
beyond their rank."""


@dataclass(frozen=True)
class NamedModel:
    """A loaded model whose bases can be named.

    Attributes:
        model, tokenizer: loaded.
        name: of the model.
        found: its targets.
    """

    model: Any
    tokenizer: Any
    name: str
    found: Found


@dataclass(frozen=True, repr=False)
class Bases(Shown):
    """What `eckart.bases` gives back.

    Attributes:
        out: the folder with `bases.json` and `report.html`, if one was asked for.
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

    def in_a_line(self) -> str:
        """How many bases of how many weights."""
        count = sum(len(found) for _, found in self.targets)
        return f"{self.model}: {count} bases of {len(self.targets)} weights"

    def in_a_table(self) -> tuple[Sequence[str], Iterable[Sequence[object]]]:
        """A row for each basis."""
        head = ("weight", "basis", "share", "reads", "writes")
        rows = (
            (target.name, basis.index, basis.share, _tokens(basis.reads), _tokens(basis.writes))
            for target, found in self.targets
            for basis in found
        )
        return head, rows

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


def load_named(
    model: str | Path, targets: Sequence[str] | None, layers: str | None, device: str
) -> NamedModel:
    """A folder's model, loaded once all that can be refused by its config has been looked at.

    Raises:
        UsageError: it is quantized, or has no tokenizer, head, embedding or such target.
        EckartError: it cannot be loaded.
    """
    folder = loading.find_model(model)
    name = loading.name_of(model, folder)
    config = loading.load_config(folder)
    meaning.refuse_quantized(config)
    checkpoint.open_checkpoint(folder)
    if not loading.has_tokenizer(folder):
        raise UsageError(f"{folder} has no tokenizer, and bases are named by tokens: save one there")
    tokenizer = loading.load_tokenizer(folder)
    try:
        empty = building.build_empty(config)
    except ValueError as error:
        raise EckartError(str(error)) from error
    meaning.unembedding_of(empty)
    found = meaning.find_weights(empty, targets, layers)
    return NamedModel(loading.load_model(folder, device), tokenizer, name, found)


def require_named(
    model: Any, tokenizer: Any, targets: Sequence[str] | None, layers: str | None
) -> NamedModel:
    """A model in memory.

    Raises:
        UsageError: it is no model, it has no such target, or it comes without its tokenizer.
    """
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
    meaning.require_loaded(model)
    return NamedModel(
        model, tokenizer, loading.name_of_loaded(model), meaning.find_weights(model, targets, layers)
    )


def name_bases(named: NamedModel, count: int, top: int, track: Track) -> Bases:
    """The leading bases of each target.

    Args:
        count: of each target at most.
        top: tokens at either end of each.
    """
    model, found = named.model, named.found
    replacing.require_finite(model)
    unembedding = meaning.Unembedding(model, named.tokenizer)
    targets = [
        (target, _leading(_weight(model, target.name), unembedding, count, top))
        for target in track(found.targets, "decomposing", len(found.targets))
    ]
    return Bases(None, named.name, targets, _notes(model, found, unembedding.width))


def write(made: Bases, out: Path) -> None:
    """Write a folder that appears whole or not at all: `bases.json` and `report.html`.

    Raises:
        UsageError: `out` exists.
        EckartError: it cannot be written.
    """
    with folders.appearing(out) as folder:
        (folder / "bases.json").write_text(json.dumps(made.as_json(), indent=1) + "\n", encoding="utf-8")
        (folder / PAGE).write_text(page(made.model, made.targets, made.notes), encoding="utf-8")


def pages(folder: Path, samples: list[Sample], png: bool) -> tuple[Files, list[str]]:
    """The page of a folder's bases, and the notes beside it.

    Raises:
        EckartError: what the folder holds is damaged.
    """
    kept: SavedBases = checkpoint.read_plain(folder / "bases.json", SavedBases)
    found = [(Target(each.name, *each.shape, bias=False), each.bases) for each in kept.targets]
    notes = [*kept.notes, *(["no PNG is drawn of bases"] if png else [])]
    return {PAGE: page(kept.model, found, kept.notes).encode()}, notes


def _weight(model: Any, name: str) -> Tensor:
    """The weight `(out, in)` of a target, dense: the product where it is in factors."""
    module = model.get_submodule(name)
    if structure_of(module) is not None:
        return replacing.dense_of(module)[0]
    return weight_of(module)


def _leading(weight: Tensor, unembedding: meaning.Unembedding, count: int, top: int) -> list[Basis]:
    """The leading bases of one weight, without those that are rounding."""
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


def _tokens(side: dict[str, list[str]] | None) -> str:
    return "" if side is None else ", ".join(side["plus"])
