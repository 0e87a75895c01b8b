"""What a sweep is asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eckart import folders, structures
from eckart.evaluation import Settings, find_task, keeping
from eckart.evaluation.measuring import make_settings
from eckart.sweeping.grid import BEST
from eckart.sweeping.measuring import SEARCHED
from eckart.types import UsageError, unknown


@dataclass(frozen=True)
class Cuts:
    """The models that are tried: every ratio with every choice of layers and of targets."""

    ratios: Sequence[float]
    layers: Sequence[str] | None
    targets: Sequence[str] | None
    structure: str


@dataclass(frozen=True)
class Measurement:
    """What is measured of each model.

    Attributes:
        task, data: as for `evaluate`; the task may be `None`.
        options: those of `evaluate`, by name.
        prompts: to be continued by `continuation` tokens.
        settings: how the task is run; `None` without one.
    """

    task: str | None
    data: str | None
    options: Mapping[str, Any]
    prompts: Sequence[str]
    continuation: int
    settings: Settings | None = None


@dataclass(frozen=True)
class Saving:
    """Which model is saved: where, the label of its cell, and whether as a dense one."""

    folder: str | Path | None
    cell: str | None
    merge: bool

    @property
    def label(self) -> str | None:
        """The cell that is named; `None` where none is, or the best."""
        return None if self.cell == BEST else self.cell


@dataclass(frozen=True)
class SweepRequest:
    """A sweep, as `sweep` describes it.

    Attributes:
        search: whether the greedy search is made.
        grid: whether every model of the grid is tried.
    """

    cuts: Cuts
    measurement: Measurement
    saving: Saving
    search: bool
    grid: bool


def make_request(
    cuts: Cuts,
    measurement: Measurement,
    saving: Saving,
    search: bool,
    grid: bool | None,
    out: str | Path | None,
) -> SweepRequest:
    """Check what needs no model.

    Raises:
        UsageError: it is wrong, or there is nothing to measure.
    """
    prompts = _several(measurement.prompts) or []
    if measurement.task is None and not prompts:
        raise UsageError("there is nothing to measure: give --task TASK, --prompt TEXT or both")
    if blank := next((prompt for prompt in prompts if not prompt.strip()), None):
        raise UsageError(f"--prompt {blank!r} is empty")
    if measurement.continuation < 1:
        raise UsageError(f"--continuation {measurement.continuation}: it is 1 or more tokens")
    known = [name for name in structures.replacements() if structures.find(name).spectral]
    if cuts.structure not in known:
        raise UsageError(unknown("structure", cuts.structure, known))
    settings = _settings(measurement, search)
    request = SweepRequest(
        replace(
            cuts, ratios=_ratios(cuts.ratios), layers=_several(cuts.layers), targets=_several(cuts.targets)
        ),
        replace(measurement, prompts=prompts, settings=settings),
        saving,
        search,
        not search if grid is None else grid,
    )
    if not (request.grid or request.search):
        raise UsageError("without the grid there is nothing to do: leave --no-grid out, or give --search")
    _check_saving(request, out)
    return request


def require_parts(request: SweepRequest, material: Sequence[Any]) -> None:
    """Raises UsageError where a search would have nothing to look at, or nothing left to be measured on."""
    if request.search and len(material) < 2:
        raise UsageError(
            f"--search looks at every {SEARCHED}th text and is measured on the others: "
            f"{request.measurement.data} has {len(material)}"
        )


def _settings(measurement: Measurement, search: bool) -> Settings | None:
    task, data, options = measurement.task, measurement.data, measurement.options
    if task is not None:
        found = find_task(task)
        if search and found is not None and not found.needs_data:
            raise UsageError(
                f"--search looks at a part of the data, and task {task} brings its own, which has no parts: "
                "give --task perplexity --data FILE, or --data pocket"
            )
        return make_settings(task, data, options)
    given = {"data": data, **options}
    if unused := next((name for name, value in given.items() if value is not None), None):
        raise UsageError(f"--{unused.replace('_', '-')} is for a task: give --task TASK too")
    if search:
        raise UsageError("--search needs a score to go by: give --task TASK")
    return None


def _ratios(ratios: Sequence[float]) -> list[float]:
    found = list(dict.fromkeys(float(ratio) for ratio in ratios))
    if not found:
        raise UsageError("--ratios is empty: name a share of the smaller side at least, as 0.1,0.25,0.5")
    if wrong := [ratio for ratio in found if not 0 < ratio <= 1]:
        raise UsageError(
            f"ratio {wrong[0]:g} is not a share of the smaller side: it is above 0 and at most 1"
        )
    return found


def _several(given: Sequence[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [given] if isinstance(given, str) else list(given) or None


def _check_saving(request: SweepRequest, out: str | Path | None) -> None:
    saving = request.saving
    if saving.folder is None:
        if saving.cell is not None or saving.merge:
            flag = "--merge" if saving.cell is None else f"--cell {saving.cell}"
            raise UsageError(f"{flag} is for what is saved: give --save FOLDER too")
    else:
        folder = Path(saving.folder)
        if out is not None and folder.resolve() == Path(out).resolve():
            raise UsageError(f"--save {folder}: the sweep itself is there; give another folder")
        folders.refuse_existing(folder)
        if saving.cell is not None and not request.grid:
            raise UsageError(f"--cell {saving.cell}: --search alone has no cells; give --grid too")
        if request.measurement.task is None and saving.label is None:
            raise UsageError("without a task no cell is the best: give --cell RATIO:LAYERS, or --task TASK")
    if out is not None:
        keeping.refuse_foreign(Path(out))
