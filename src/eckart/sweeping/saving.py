"""One model of a sweep as a folder: factors where they pay and products where they do not, or all dense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from eckart import linalg
from eckart.compression.cuts import MERGED
from eckart.compression.folder.saving import save_folder
from eckart.model import replacing
from eckart.model.targets import weight_of
from eckart.structures import Site
from eckart.sweeping.grid import cost
from eckart.sweeping.models import SweptModel
from eckart.sweeping.truncating import Truncated
from eckart.types import Bytes, Count, Manifest, Option, Recipe, Target, TargetRecord


def save(
    truncated: Truncated,
    swept: SweptModel,
    ranks: Mapping[str, int],
    recipe: Recipe,
    out: Path,
    merge: bool,
    notes: Sequence[str],
) -> Manifest:
    """Write the model at these ranks as a compressed folder; in memory it is dense again afterwards.

    Args:
        recipe: what its manifest says was asked for.
        merge: put every product in its dense weight's place, so that any tool loads the folder.

    Raises:
        EckartError: it could not be written; nothing was left behind.
    """
    truncated.put({})
    bench, model = truncated.bench, truncated.bench.model
    before, bytes_before = replacing.count_parameters(model), replacing.count_bytes(model)
    try:
        records = [
            _place(truncated, target, ranks.get(target.name), recipe, merge) for target in bench.targets
        ]
        after = replacing.count_parameters(model)
        manifest = Manifest(
            eckart=version("eckart"),
            torch=version("torch"),
            transformers=version("transformers"),
            source=swept.name,
            recipe=recipe,
            parameters=Count(
                before=before,
                after=after,
                keep=after / before,
                targets_before=sum(record.parameters_before for record in records),
                targets_after=sum(record.parameters_after for record in records),
            ),
            bytes=Bytes(before=bytes_before, after=replacing.count_bytes(model)),
            targets=records,
            merged=merge,
            notes=[*notes, *([MERGED] if merge else [])],
        )
        save_folder(model, swept.tokenizer, manifest, swept.folder, out)
    finally:
        bench.restore()
        replacing.undescribe(model.config)
    return manifest


def _place(
    truncated: Truncated, target: Target, rank: int | None, recipe: Recipe, merge: bool
) -> TargetRecord:
    bench = truncated.bench
    weight, sides = bench.weight(target.name).clone(), bench.sides(target.name)
    solved = None if rank is None else bench.decomposition(target, truncated.largest[target.name])
    dense = target.out_features * target.in_features
    if rank is None or solved is None or not (merge or cost(target, rank, recipe.structure) == dense):
        option = Option(structure="dense" if rank is None else recipe.structure, size=rank)
        (record,) = bench.place(Site((target,)), option, keep_dense=True)
        return record
    bench.reweigh(target, truncated.product(target.name, rank), keep_dense=True)
    now = weight_of(bench.model.get_submodule(target.name))
    return TargetRecord(
        name=target.name,
        out_features=target.out_features,
        in_features=target.in_features,
        option=Option(structure="dense", size=rank),
        parameters_before=dense,
        parameters_after=dense,
        predicted_error=solved.predicted_error(rank),
        measured_error=linalg.relative_error(weight, now, *sides),
    )
