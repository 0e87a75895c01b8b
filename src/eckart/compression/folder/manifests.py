"""What was done to a model, in the words that are saved beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from eckart import checkpoint
from eckart.compression.cuts import Cut
from eckart.data import digest_of
from eckart.model import loading, probe, replacing, saving
from eckart.types import MANIFEST, Bytes, Count, EckartError, Manifest, Probe, Recipe, TrainingRecord


@dataclass(frozen=True)
class Before:
    """A model before the cut: its name, its size, what it can be asked, and what it was read without."""

    source: str
    parameters: int
    bytes: int
    left_out: list[str]
    probe: Probe

    @classmethod
    def of(cls, model: Any, source: str) -> Before:
        sizes = replacing.count_parameters(model), replacing.count_bytes(model)
        return cls(source, *sizes, loading.left_out(model), probe.question_of(model))


def make_manifest(
    model: Any,
    before: Before,
    recipe: Recipe,
    cut: Cut,
    tokens: int | None,
    notes: Sequence[str],
    runs: Sequence[TrainingRecord] = (),
    merged: bool = False,
) -> Manifest:
    """What became of a model.

    Args:
        model: as it is now.
        tokens: that were calibrated on.
        notes: beside those of the cut.
        runs: trainings.
        merged: whether the factors were multiplied out again.
    """
    after, unasked = replacing.count_parameters(model), before.probe.unasked
    return Manifest(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=before.source,
        recipe=recipe,
        data_sha256=digest_of(recipe.data),
        calibration_tokens=tokens,
        parameters=Count(
            before=before.parameters,
            after=after,
            keep=after / before.parameters,
            targets_before=sum(record.parameters_before for record in cut.records),
            targets_after=sum(record.parameters_after for record in cut.records),
        ),
        bytes=Bytes(before=before.bytes, after=replacing.count_bytes(model)),
        targets=cut.records,
        held_out=cut.held_out,
        training=list(runs),
        merged=merged,
        left_out=before.left_out,
        notes=[*notes, *cut.notes, *([f"outputs: {unasked}"] if unasked else [])],
        probe=before.probe,
    )


def summary_of(manifest: Manifest) -> str:
    """A line or two for a model card."""
    count = manifest.parameters
    summary = (
        f"Made by Eckart {manifest.eckart} with method `{manifest.recipe.method}`: {count.after:,} of "
        f"{count.before:,} parameters ({count.keep:.1%})."
    )
    for run in manifest.training:
        summary += f" Then trained for {run.steps:,} steps, {run.tokens:,} tokens."
    return summary if manifest.held_out is None else f"{summary}\n\nQuality {manifest.held_out.in_words()}."


def seal(manifest: Manifest, folder: Path) -> None:
    """Write the manifest of a folder that is complete but for it, with the hashes of what must not change."""
    files = [*checkpoint.open_checkpoint(folder).files]
    if not manifest.plain:
        files.append(folder / f"{saving.MODELING_FILE}.py")
    manifest.files = {path.name: checkpoint.sha256(path) for path in files}
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; `None` where it has none.

    Raises:
        EckartError: it is damaged.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        return Manifest.model_validate_json(path.read_text())
    except (ValidationError, UnicodeDecodeError) as error:
        raise EckartError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def recovered_manifest(folder: Path, source: str, model: Any, before: int, nbytes: int) -> Manifest:
    """What the folder's own manifest says, of the trained model; a new one where there is none.

    What was measured of the cut is true of it alone, and is left out.
    """
    after, size = replacing.count_parameters(model), replacing.count_bytes(model)
    manifest = read_manifest(folder)
    if manifest is not None:
        manifest.bytes.after, manifest.held_out = size, None
        for record in manifest.targets:
            record.measured_error = None
        versions = {name: version(name) for name in ("eckart", "torch", "transformers")}
        return manifest.model_copy(update=versions)
    return Manifest(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=source,
        recipe=Recipe(method="dense", metric="identity", structure="dense", allocation="uniform"),
        parameters=Count(before=before, after=after, keep=after / before, targets_before=0, targets_after=0),
        bytes=Bytes(before=nbytes, after=size),
        targets=[],
        left_out=loading.left_out(model),
    )
