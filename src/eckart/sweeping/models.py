"""The model of a sweep: loaded, with what its task reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart import checkpoint
from eckart.evaluation.measuring import read_material
from eckart.model import building, loading, replacing
from eckart.model.targets import block_of
from eckart.sweeping.grid import Grid, make_grid
from eckart.sweeping.request import SweepRequest, require_parts
from eckart.types import UsageError


@dataclass(frozen=True)
class SweptModel:
    """A loaded model and the data that it is measured on.

    Attributes:
        name: of the model.
        folder: where it was loaded from, if it was.
        material: what the task reads, as much of it as is asked for.
    """

    model: Any
    tokenizer: Any
    name: str
    folder: Path | None
    material: list[Any]


def load_swept(model: str | Path, request: SweepRequest, device: str, dtype: str) -> SweptModel:
    """A folder's model, loaded once the request has been checked against its config.

    Raises:
        UsageError: it cannot be cut or measured as is asked for.
        EckartError: it cannot be loaded.
    """
    folder = loading.find_model(model)
    name = loading.name_of(model, folder)
    config = loading.load_config(folder)
    loading.refuse_compressed(config)
    checkpoint.open_checkpoint(folder)
    writes = loading.generates(config)
    _require_writing(request, writes, building.model_class(config).__name__)
    # A wrong choice should cost nobody a model load.
    choose_grid(building.build_empty(config), request)
    material = _material(request, writes)
    tokenizer = loading.load_tokenizer(folder)
    loaded = loading.load_model(folder, device, dtype)
    replacing.require_finite(loaded)
    return SweptModel(loaded, tokenizer, name, folder, material)


def require_swept(model: Any, tokenizer: Any, request: SweepRequest) -> SweptModel:
    """A model in memory.

    Raises:
        UsageError: it cannot be cut or measured as is asked for, or comes without its tokenizer.
    """
    loading.require_loaded(model)
    writes = bool(model.can_generate())
    _require_writing(request, writes, type(model).__name__)
    if tokenizer is None:
        raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
    material = _material(request, writes)
    replacing.require_finite(model)
    return SweptModel(model, tokenizer, loading.name_of_loaded(model), None, material)


def choose_grid(model: Any, request: SweepRequest) -> Grid:
    """The grid of a model, which may be on the meta device.

    Raises:
        UsageError: a choice fits no weight, or the search or the cell that is named has no place in it.
    """
    cuts, layers = request.cuts, request.cuts.layers
    if layers is None and not request.grid:
        layers = [""]
    grid = make_grid(model, cuts.ratios, layers, cuts.targets)
    if request.search and not any(block_of(model, target.name) for target in grid.targets):
        raise UsageError("--search goes from block to block, and none of the targets is in one")
    if request.saving.label is not None:
        grid.find(request.saving.label)
    return grid


def _require_writing(request: SweepRequest, writes: bool, kind: str) -> None:
    if request.measurement.prompts and not writes:
        raise UsageError(f"{kind} writes no text: leave --prompt out, and give --task stsb, say")


def _material(request: SweepRequest, generates: bool) -> list[Any]:
    measurement = request.measurement
    if measurement.task is None or measurement.settings is None:
        return []
    fields = measurement.options.get("fields")
    material = read_material(measurement.task, measurement.data, generates, fields)
    material = material[: measurement.settings.limit]
    require_parts(request, material)
    return material
