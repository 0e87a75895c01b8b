"""Requests before the engine: what is done already, what is read, how it can go, and where."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eckart import checkpoint, folders, structures
from eckart.compression.blocks import settled
from eckart.compression.dividing import divide
from eckart.data import digest_of, texts_of
from eckart.estimate import time
from eckart.estimate.gains import slower
from eckart.model import building, channels, loading
from eckart.recipes import making
from eckart.recovery.runs import working_folder
from eckart.recovery.settings import Training
from eckart.types import Manifest, Recipe, Text, UsageError


def finished(out: str | Path | None, resume: bool) -> Manifest | None:
    """The manifest of a run that had come to its end when it was stopped.

    Raises:
        UsageError: something else is at `out`, or there is nowhere to go on from.
    """
    if out is None:
        if resume:
            raise UsageError("--resume goes on with what was kept beside the output folder: give out")
        return None
    done = settled(Path(out)) if resume else None
    if done is None:
        folders.refuse_existing(Path(out))
    return done


def read_data(recipe: Recipe, settings: Training | None, generates: bool) -> list[Any]:
    """The texts of a recipe, before anything heavy starts: a broken row should cost nobody a model load."""
    if recipe.data is None or not (settings or making.needs_data(recipe)):
        return []
    return texts_of(
        recipe.data, generates, recipe.fields, recipe.on, tokens=settings.tokens if settings else None
    )


def takes(folder: Path, recipe: Recipe, texts: Sequence[Text]) -> tuple[dict[str, float], int | None]:
    """Seconds that the cut would compute here by effort, and for how many tokens: those of the texts."""
    config = loading.load_config(folder)
    empty = building.build_empty(config)
    found = channels.find_targets(empty, recipe.targets, recipe.layers, recipe.structures).targets
    tokenizer = loading.load_tokenizer(folder, recipe.bos) if texts else None
    divided = divide(empty, tokenizer, recipe, texts) if texts else None
    reading = time.Reading() if divided is None else divided.reading
    efforts = time.by_effort(found, empty, recipe, loading.dtype_of(config, recipe.dtype), reading)
    return efforts, reading.calibrating if texts else None


def may_walk(folder: Path | None, out: str | Path | None, recipe: Recipe, blocks: bool | None) -> bool:
    """Whether this can be done block by block at all.

    Raises:
        UsageError: it cannot, and was asked for.
    """
    lacks = {
        "a model in memory is there as a whole": folder is None,
        "blocks are written as they are done: give out": out is None,
        "training needs the whole model in memory": recipe.training is not None,
        "--merge needs the whole model in memory": recipe.merge,
        "--adapter is merged into the whole model": recipe.adapter is not None,
        "narrower MLPs need the whole model in memory": any(
            structures.find(name).channels for name in recipe.structures
        ),
    }
    why = [reason for reason, lacking in lacks.items() if lacking]
    if blocks and why:
        raise UsageError(f"--blocks: {why[0]}")
    return not why


def identity(folder: Path | None, recipe: Recipe) -> dict[str, Any]:
    """What makes a request the same as another one."""
    named = {"model", "data", "fields", "training", "merge", "blocks"}
    return {
        **recipe.model_dump(mode="json", exclude=named),
        "model": folder and checkpoint.weight_digests(folder),
        "data": [recipe.data, digest_of(recipe.data), recipe.fields],
        **(recipe.training or {}),
    }


@contextmanager
def workplace(
    out: str | Path | None, folder: Path | None, recipe: Recipe, resume: bool
) -> Iterator[Path | None]:
    """Where checkpoints go while a model is trained: beside `out`, so that a run can be gone on with."""
    if recipe.training is None:
        yield None
    elif out is None:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch)
    else:
        work = Path(f"{out}.training")
        with working_folder(work, identity(folder, recipe), resume):
            yield work


def warnings_of(manifest: Manifest, dtype: torch.dtype, device: str) -> list[str]:
    """What a user may not expect of the result: what it lost, and that it is no faster."""
    measured = manifest.held_out
    if measured is None or not measured.poor:
        return no_faster(manifest, dtype, device)
    lost = (
        f"its divergence from the dense model is {measured.divergence:.2f}"
        if measured.perplexity_ratio is None
        else f"its perplexity is {measured.perplexity_ratio:.2f} times the dense model's"
    )
    better = "" if manifest.recipe.method == "auto" else "--method auto, "
    better += "a longer training (--tokens), " if manifest.training else ""
    made = "trained" if manifest.training else "calibrated"
    return [
        f"on data that it was not {made} on {lost}: try {better}a larger --keep or --size, more "
        "--data of the kind that it is for, or `eckart recover`",
        *no_faster(manifest, dtype, device),
    ]


def no_faster(manifest: Manifest, dtype: torch.dtype, device: str) -> list[str]:
    """Which layers gained no speed. It is what this machine measured, so the manifest does not hold it."""
    return [] if manifest.plain or manifest.recipe.quantize else slower(manifest.targets, dtype, device)


def source_of(model: Any, out: str | Path | None, recipe: Recipe) -> tuple[Path | None, str, bool]:
    """The model's folder, its name, and whether it writes text.

    Raises:
        UsageError: it cannot be compressed, or not into `out`.
    """
    if not isinstance(model, (str, Path)):
        loading.require_loaded(model)
        named = Path(getattr(model.config, "name_or_path", "")).name
        return None, named or type(model).__name__, model.can_generate()
    folder = loading.find_model(model)
    config = loading.load_config(folder)
    loading.refuse_compressed(config)
    stored = checkpoint.open_checkpoint(folder)
    if out is not None:
        folders.refuse_full(Path(out), int(stored.nbytes * (recipe.keep or 1)))
    return folder, loading.name_of(model, folder), loading.generates(config)
