"""The main job: a pretrained model in, a smaller plain Hugging Face folder out."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from eckart import allocate, calibrate, checkpoint, linalg, recipes
from eckart.data import read_texts
from eckart.model import loading, probe, replacing, saving, targets, text
from eckart.pipeline import choices
from eckart.types import (
    MAX_LENGTH,
    SAMPLES,
    Bytes,
    Count,
    EckartError,
    Manifest,
    Recipe,
    Result,
    Spectrum,
    Target,
    TargetRecord,
    Track,
    UsageError,
    silent,
)

MANIFEST = "eckart.json"


def compress(
    model: Any,
    out: str | Path | None = None,
    *,
    keep: float | None = None,
    rank: int | None = None,
    ratio: float | None = None,
    of: str = "model",
    method: str | None = None,
    metric: str | None = None,
    structure: str | None = None,
    allocation: str | None = None,
    targets: Sequence[str] | None = None,
    layers: str | None = None,
    data: str | None = None,
    samples: int = SAMPLES,
    max_length: int = MAX_LENGTH,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    track: Track = silent,
) -> Result:
    """Make a pretrained model smaller by replacing its weight matrices with low-rank structure.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model, which is changed in place.
        out: folder to save in; it must not exist. Without it the result is in memory only.
        keep: parameters after / parameters before, above 0 and at most 1. Or instead of it:
        rank: the same rank for every target; or
        ratio: rank as a share of each target's smaller side.
        of: whether `keep` counts over the whole `model` or over the `targets` alone.
        method: a row of the catalogue (`eckart methods`); default `svd-llm` with data, `svd` without.
        metric, structure, allocation: the axes, where they should differ from the method's row.
        targets: endings of module names or globs; default every linear layer in the blocks.
        layers: which blocks, e.g. `top:4` or `3-7`; default all.
        data: a `.jsonl`, `.txt` or `.csv` file to calibrate on, or `pocket`, `pocket-math`, ….
        samples: windows of the data to use at most.
        max_length: tokens in a window at most.
        tokenizer: for a loaded model with data; a folder brings its own.
        device: where to run, e.g. `cuda`.
        dtype: to load weights in; default as stored.
        track: shows progress.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the work failed; nothing was written.
    """
    started = time.perf_counter()
    recipe = choices.make_recipe(
        method=method,
        metric=metric,
        structure=structure,
        allocation=allocation,
        keep=keep,
        of=of,
        rank=rank,
        ratio=ratio,
        targets=targets,
        layers=layers,
        data=data,
        samples=samples,
        max_length=max_length,
    )
    if out is not None:
        checkpoint.refuse_existing(Path(out))
    folder = loading.find_model(model) if isinstance(model, (str, Path)) else None
    if folder is not None:
        source = folder.resolve().name if Path(model).exists() else str(model)
        config = loading.load_config(folder)
        loading.refuse_compressed(config)
        stored = checkpoint.open_checkpoint(folder)
        if out is not None:
            checkpoint.refuse_full(Path(out), int(stored.nbytes * (recipe.keep or 1)))
        texts = _texts(recipe, loading.generates(config))
        model = loading.load_model(folder, device, dtype)
        tokenizer = loading.load_tokenizer(folder) if texts or loading.has_tokenizer(folder) else None
    else:
        loading.require_loaded(model)
        texts = _texts(recipe, model.can_generate())
        source = Path(getattr(model.config, "name_or_path", "")).name or type(model).__name__
    if bad := replacing.first_not_finite(model):
        raise EckartError(
            f"{bad} has values that are not finite (NaN or infinity): the checkpoint is damaged"
        )
    manifest = _compress_in_place(model, tokenizer, recipe, texts, source, track)
    if out is not None:
        _save(model, tokenizer, manifest, folder, Path(out))
    return Result(
        model=model,
        manifest=manifest,
        out=None if out is None else str(out),
        seconds=time.perf_counter() - started,
        peak_memory_bytes=peak_memory_bytes(),
    )


def peak_memory_bytes() -> int:
    """The largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _texts(recipe: Recipe, generates: bool) -> list[Any]:
    """Read the data before anything heavy starts: a broken row should cost nobody a model load."""
    if recipe.data is None or not recipes.moments_of(recipe.metric):
        return []
    return read_texts(recipe.data, lines=not generates)


def _compress_in_place(
    model: Any, tokenizer: Any, recipe: Recipe, texts: list[Any], source: str, track: Track
) -> Manifest:
    found = targets.find_targets(model, recipe.targets, recipe.layers)
    before, bytes_before = replacing.count_parameters(model), replacing.count_bytes(model)
    chosen, notes = found.targets, list(found.notes)
    choices.require_possible(chosen, recipe, before - _size(chosen))
    observed = _observe(model, tokenizer, recipe, texts, chosen, track)
    metrics = _Metrics(recipe, observed)
    if observed is not None:
        seen = {target.name for target in chosen if observed.spaces[target.name] in observed.moments}
        notes += [
            f"{target.name} stays dense: no token of the data reached it"
            for target in chosen
            if target.name not in seen
        ]
        chosen = [target for target in chosen if target.name in seen]
    fixed = before - _size(chosen)
    solved: dict[str, linalg.Decomposition] = {}
    spectra: list[Spectrum] | None = None
    if recipe.keep is not None and recipe.allocation in allocate.NEEDS_ERRORS:
        for target in track(chosen, "decomposing", len(chosen)):
            largest = linalg.largest_paying_rank(recipe.structure, target.out_features, target.in_features)
            solved[target.name] = _decompose(model, target, metrics).truncated(largest)
        spectra = [solved[target.name].spectrum for target in chosen]
    ranks = choices.choose_ranks(chosen, recipe, fixed, spectra)
    notes += choices.dense_notes(chosen, recipe, ranks)
    records = []
    for target, rank in track(list(zip(chosen, ranks, strict=True)), "factorizing", len(chosen)):
        decomposition = solved.pop(target.name, None)
        records.append(_replace(model, target, rank, recipe, metrics, decomposition))
    replacing.describe(model)
    after = replacing.count_parameters(model)
    return Manifest(
        eckart=version("eckart"),
        torch=version("torch"),
        transformers=version("transformers"),
        source=source,
        recipe=recipe.model_copy(update={"data": recipe.data and Path(recipe.data).name}),
        data_sha256=_digest(recipe.data),
        calibration_tokens=observed.tokens if observed else None,
        parameters=Count(
            before=before,
            after=after,
            keep=after / before,
            targets_before=sum(record.parameters_before for record in records),
            targets_after=sum(record.parameters_after for record in records),
        ),
        bytes=Bytes(before=bytes_before, after=replacing.count_bytes(model)),
        targets=records,
        notes=notes,
    )


def _size(chosen: list[Target]) -> int:
    return sum(target.out_features * target.in_features for target in chosen)


class _Metrics:
    """The metric `(left, right)` of each target. Targets that read one input space share a side."""

    def __init__(self, recipe: Recipe, observed: calibrate.Observed | None) -> None:
        self.metric = recipes.find_metric(recipe.metric)
        self.observed = observed
        self.last: tuple[str, linalg.Side] | None = None

    def of(self, name: str) -> tuple[linalg.Side, linalg.Side]:
        return linalg.Side(), self._right(name)

    def _right(self, name: str) -> linalg.Side:
        if self.observed is None:
            return linalg.Side()
        space = self.observed.spaces[name]
        # Targets come in the model's order, so those of one space come together: one side is enough.
        if self.last is None or self.last[0] != space:
            build = {
                "mean-absolute": linalg.Side.from_mean_absolute,
                "second-moment": linalg.Side.from_second_moment,
            }[self.metric.right]
            self.last = space, build(self.observed.moments[space])
        return self.last[1]


def _observe(
    model: Any, tokenizer: Any, recipe: Recipe, texts: list[Any], chosen: list[Target], track: Track
) -> calibrate.Observed | None:
    kinds = recipes.moments_of(recipe.metric)
    if not kinds:
        return None
    if tokenizer is None:
        raise UsageError("a loaded model with data needs its tokenizer too: pass tokenizer=")
    names = [target.name for target in chosen]
    cut = text.windows(model, tokenizer, texts, recipe.max_length, recipe.samples)
    try:
        return calibrate.watch(model, names, text.batches(model, tokenizer, cut), kinds, track)
    except calibrate.PaddingUnknownError:
        single = text.batches(model, tokenizer, cut, batch_tokens=1)
        return calibrate.watch(model, names, single, kinds, track)


def _decompose(model: Any, target: Target, metrics: _Metrics) -> linalg.Decomposition:
    weight = targets.weight_of(model.get_submodule(target.name))
    try:
        return linalg.decompose(weight, *metrics.of(target.name))
    except (ValueError, RuntimeError) as error:
        raise EckartError(f"{target.name} could not be decomposed: {error}") from error


def _replace(
    model: Any,
    target: Target,
    rank: int | None,
    recipe: Recipe,
    metrics: _Metrics,
    decomposition: linalg.Decomposition | None,
) -> TargetRecord:
    shape = {"name": target.name, "out_features": target.out_features, "in_features": target.in_features}
    dense = linalg.parameters("dense", target.out_features, target.in_features, 0)
    if rank is None:
        return TargetRecord(
            **shape,  # type: ignore[arg-type]
            structure="dense",
            rank=None,
            parameters_before=dense,
            parameters_after=dense,
            predicted_error=0.0,
            measured_error=0.0,
        )
    decomposition = decomposition or _decompose(model, target, metrics)
    weight = targets.weight_of(model.get_submodule(target.name)).clone()
    factors = linalg.factorize(recipe.structure, *decomposition.factors(weight, rank))
    saved = replacing.replace(model, target.name, factors)
    approximation = linalg.reconstruct(saved)
    return TargetRecord(
        **shape,  # type: ignore[arg-type]
        structure=recipe.structure,
        rank=rank,
        parameters_before=dense,
        parameters_after=saved.U.numel() + saved.V.numel(),
        predicted_error=decomposition.predicted_error(rank),
        measured_error=linalg.relative_error(weight, approximation, *metrics.of(target.name)),
    )


def _digest(data: str | None) -> str | None:
    return checkpoint.sha256(Path(data)) if data is not None and Path(data).is_file() else None


def _save(model: Any, tokenizer: Any, manifest: Manifest, folder: Path | None, out: Path) -> None:
    count = manifest.parameters
    summary = (
        f"Made by Eckart {manifest.eckart} with method `{manifest.recipe.method}`: {count.after:,} of "
        f"{count.before:,} parameters ({count.keep:.1%})."
    )
    with checkpoint.appearing(out) as temporary:
        saving.save_model(model, temporary, manifest.source, summary)
        if tokenizer is not None and folder is None:
            tokenizer.save_pretrained(temporary)
        if folder is not None:
            checkpoint.copy_companions(folder, temporary)
        manifest.probe = probe.take_probe(model)
        manifest.files = {
            path.name: checkpoint.sha256(path)
            for path in [
                *checkpoint.open_checkpoint(temporary).files,
                temporary / f"{saving.MODELING_FILE}.py",
            ]
        }
        (temporary / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
