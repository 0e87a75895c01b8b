"""What a sweep is asked for, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eckart import checkpoint, structures
from eckart.evaluation import Settings, find_task, keeping
from eckart.evaluation.measuring import make_settings
from eckart.sweeping.grid import BEST
from eckart.sweeping.judging import SEARCHED
from eckart.types import UsageError, unknown


@dataclass(frozen=True)
class Asked:
    """A sweep, as `sweep` describes it; `settings` is `None` without a task."""

    ratios: list[float]
    layers: list[str] | None
    targets: list[str] | None
    structure: str
    task: str | None
    data: str | None
    fields: str | None
    settings: Settings | None
    prompts: list[str]
    continuation: int
    search: bool
    grid: bool
    save: Path | None
    cell: str | None
    merge: bool


def make_asked(
    *,
    out: str | Path | None,
    ratios: Sequence[float],
    layers: str | Sequence[str] | None,
    targets: str | Sequence[str] | None,
    structure: str,
    task: str | None,
    data: str | None,
    options: Mapping[str, Any],
    prompts: str | Sequence[str],
    continuation: int,
    search: bool,
    grid: bool | None,
    save: str | Path | None,
    cell: str | None,
    merge: bool,
) -> Asked:
    """Check what needs no model.

    Args:
        options: those of `evaluate`, by name.

    Raises:
        UsageError: it is wrong, or there is nothing to measure.
    """
    prompts = _several(prompts) or []
    if task is None and not prompts:
        raise UsageError("there is nothing to measure: give --task TASK, --prompt TEXT or both")
    if blank := next((prompt for prompt in prompts if not prompt.strip()), None):
        raise UsageError(f"--prompt {blank!r} is empty")
    if continuation < 1:
        raise UsageError(f"--continuation {continuation}: it is 1 or more tokens")
    known = [name for name in structures.replacements() if structures.find(name).spectral]
    if structure not in known:
        raise UsageError(unknown("structure", structure, known))
    settings = _settings(task, data, options, search)
    asked = Asked(
        ratios=_ratios(ratios),
        layers=_several(layers),
        targets=_several(targets),
        structure=structure,
        task=task,
        data=data,
        fields=options.get("fields"),
        settings=settings,
        prompts=prompts,
        continuation=continuation,
        search=search,
        grid=not search if grid is None else grid,
        save=None if save is None else Path(save),
        cell=cell,
        merge=merge,
    )
    if not (asked.grid or asked.search):
        raise UsageError("without the grid there is nothing to do: leave --no-grid out, or give --search")
    _check_saving(asked, out)
    return asked


def require_parts(asked: Asked, material: Sequence[Any]) -> None:
    """Raises UsageError where a search would have nothing to look at, or nothing left to be measured on."""
    if asked.search and len(material) < 2:
        raise UsageError(
            f"--search looks at every {SEARCHED}th text and is measured on the others: {asked.data} has "
            f"{len(material)}"
        )


def _settings(
    task: str | None, data: str | None, options: Mapping[str, Any], search: bool
) -> Settings | None:
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


def _several(given: str | Sequence[str] | None) -> list[str] | None:
    if given is None:
        return None
    return [given] if isinstance(given, str) else list(given) or None


def _check_saving(asked: Asked, out: str | Path | None) -> None:
    if asked.save is None:
        if asked.cell is not None or asked.merge:
            flag = "--merge" if asked.cell is None else f"--cell {asked.cell}"
            raise UsageError(f"{flag} is for what is saved: give --save FOLDER too")
    else:
        if out is not None and asked.save.resolve() == Path(out).resolve():
            raise UsageError(f"--save {asked.save}: the sweep itself is there; give another folder")
        checkpoint.refuse_existing(asked.save)
        if asked.cell is not None and not asked.grid:
            raise UsageError(f"--cell {asked.cell}: --search alone has no cells; give --grid too")
        if asked.task is None and asked.cell in (None, BEST):
            raise UsageError("without a task no cell is the best: give --cell RATIO:LAYERS, or --task TASK")
    if out is not None:
        keeping.refuse_foreign(Path(out))
