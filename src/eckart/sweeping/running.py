"""A sweep of a loaded model: everything measured, written, and the chosen model saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from eckart.compression.course import Course
from eckart.compression.memory_store import MemoryStore
from eckart.data import digest_of
from eckart.evaluation import Request, keeping, lower_is_better
from eckart.evaluation.measuring import identity
from eckart.model import replacing
from eckart.model.targets import block_of
from eckart.recipes import making
from eckart.sweeping.files import MEASURED, files
from eckart.sweeping.grid import Place, left, rank_at
from eckart.sweeping.measuring import ALL, REST, SEARCH_PART, SEARCHED, Evaluator
from eckart.sweeping.models import SweptModel, choose_grid
from eckart.sweeping.request import SweepRequest
from eckart.sweeping.saving import save
from eckart.sweeping.searching import search
from eckart.sweeping.truncating import Truncated
from eckart.types import Cell, EckartError, Recipe, Step, Sweep, Track, silent

OnCell = Callable[[Cell], None]


class SweepRun:
    """One sweep of a loaded model.

    Args:
        swept: the model.
        request: what is asked for.
        out: the folder; without it nothing is kept.
        debug: show the tracebacks of models that fail on standard error.
        track: shows progress.
        on_cell: called with each model of the grid, the dense one first, once it is measured.
    """

    def __init__(
        self,
        swept: SweptModel,
        request: SweepRequest,
        out: Path | None,
        debug: bool,
        track: Track,
        on_cell: OnCell | None,
    ) -> None:
        self.swept, self.request, self.track, self.on_cell = swept, request, track, on_cell
        model, cuts, measurement = swept.model, request.cuts, request.measurement
        self.grid = choose_grid(model, request)
        recipe = making.make_recipe(method="laser", structure=cuts.structure, ratio=max(cuts.ratios))
        targets = self.grid.targets
        store = MemoryStore(model, None, targets, recipe, [], silent)
        self.bench = Course(store, targets, recipe).bench
        self.total = replacing.count_parameters(model)
        task = None
        if measurement.task is not None and measurement.settings is not None:
            task = Request(measurement.task, model, swept.tokenizer, swept.material, measurement.settings)
        self.kept = keeping.Kept(out, _identity(request, task, model, swept.name), MEASURED, "key")
        largest = {target.name: rank_at(max(cuts.ratios), target) for target in self.grid.targets}
        self.truncated = Truncated(self.bench, largest)
        self.evaluator = Evaluator(
            self.truncated,
            swept.tokenizer,
            task,
            measurement.prompts,
            measurement.continuation,
            self.kept,
            debug,
        )
        self.part = REST if request.search else ALL

    def run(self) -> Sweep:
        """Measure everything, write it, and save what was asked for."""
        request, measurement = self.request, self.request.measurement
        with self.truncated:
            dense = self._reported(self._cell(1.0, "", "", {}))
            places = self.grid.places if request.grid else []
            cells = [
                self._reported(self._cell(place.ratio, place.layers, place.targets, place.ranks))
                for place in self.track(places, "measuring", len(places))
            ]
            start, steps, taken = self._search(dense)
            found = None
            if request.search:
                ratios = [step.ratio for step in steps if step.taken]
                found = self._cell(fmean(ratios) if ratios else 1.0, "", "", taken)
            made = Sweep(
                eckart=version("eckart"),
                torch=version("torch"),
                transformers=version("transformers"),
                source=self.swept.name,
                task=measurement.task,
                metric=dense.metric,
                lower_is_better=lower_is_better(dense.metric or ""),
                data=measurement.data and Path(measurement.data).name,
                data_sha256=digest_of(measurement.data),
                prompts=list(measurement.prompts),
                dense=dense,
                cells=cells,
                start=start,
                steps=steps,
                found=found,
                notes=[*self.grid.notes, *self._notes(cells, start, found)],
            )
            self.kept.finish_files(files(made))
            if request.saving.folder is not None:
                self._save(made)
        return made

    def _cell(
        self, ratio: float, layers: str, targets: str, ranks: Mapping[str, int], part: str = ""
    ) -> Cell:
        """The model at these ranks, measured."""
        measured = asdict(self.evaluator.measure(ranks, part or self.part))
        parameters = left(self.total, self.grid.targets, ranks, self.request.cuts.structure)
        measured["continuations"] = list(measured["continuations"])
        return Cell(
            ratio=ratio,
            layers=layers,
            targets=targets,
            ranks=dict(ranks),
            parameters=parameters,
            keep=parameters / self.total,
            **measured,
        )

    def _reported(self, cell: Cell) -> Cell:
        """The same, once the caller has it."""
        if self.on_cell is not None:
            self.on_cell(cell)
        return cell

    def _search(self, dense: Cell) -> tuple[Cell | None, list[Step], dict[str, int]]:
        """The dense model where the search begins, its steps, and the ranks it took."""
        if not self.request.search:
            return None, [], {}
        steps, taken = search(
            self.evaluator,
            self.grid.targets,
            self.request.cuts.ratios,
            lower_is_better(dense.metric or ""),
            self.request.cuts.structure,
            self.total,
            self.track,
        )
        return self._cell(1.0, "", "", {}, SEARCH_PART), steps, taken

    def _notes(self, cells: Sequence[Cell], start: Cell | None, found: Cell | None) -> list[str]:
        """What a reader of the figures should know."""
        notes = [
            f"{cell.ratio:g}:{cell.layers}{cell.targets and ':' + cell.targets} failed: {cell.error}"
            for cell in [*cells, *([found] if found else [])]
            if cell.error is not None
        ]
        if start is not None:
            notes.append(
                f"the search looked at every {SEARCHED}th text; all scores but those of its steps are of the "
                "others"
            )
            outside = [t.name for t in self.grid.targets if block_of(self.bench.model, t.name) is None]
            notes += [f"{name} is in no block: the search left it alone" for name in outside]
        return notes

    def _save(self, made: Sweep) -> None:
        """Write the model that was asked for."""
        saving = self.request.saving
        assert saving.folder is not None
        notes = []
        if made.found is not None and saving.cell is None:
            recipe, ranks = self._recipe(Place(1.0, "", "", {}), None), made.found.ranks
            notes.append(
                f"ranks were found by a greedy search over the ratios {_list(self.request.cuts.ratios)}: no "
                "single one does it again"
            )
        else:
            place = self._chosen(made.cells)
            recipe, ranks = self._recipe(place, place.ratio), place.ranks
        save(self.truncated, self.swept, ranks, recipe, Path(saving.folder), saving.merge, notes)

    def _chosen(self, cells: Sequence[Cell]) -> Place:
        """The place that was named, or the best: ties go to the lower loss, then to the smaller model."""
        if (label := self.request.saving.label) is not None:
            return self.grid.find(label)
        scored = [
            (cell.value, cell.loss or 0.0, cell.parameters, place)
            for cell, place in zip(cells, self.grid.places, strict=True)
            if cell.value is not None and cell.error is None
        ]
        if not scored:
            raise EckartError("no model of the sweep could be measured: there is no best one to save")
        sign = 1 if lower_is_better(cells[0].metric or "") else -1
        return min(scored, key=lambda each: (sign * each[0], *each[1:3]))[3]

    def _recipe(self, place: Place, ratio: float | None) -> Recipe:
        """What would do it again, but for weights that are no smaller cut, which `compress` leaves alone.

        Args:
            ratio: `None` where there is not one for all.
        """
        names = [name.strip() for name in place.targets.split(",") if name.strip()]
        made = making.make_recipe(
            method="laser",
            structure=self.request.cuts.structure,
            ratio=place.ratio,
            layers=place.layers or None,
            targets=names or None,
        )
        return made.model_copy(update={"ratio": ratio})


def _identity(request: SweepRequest, task: Request | None, model: Any, source: str) -> dict[str, Any]:
    """What makes a sweep the same as another one."""
    if task is None:
        what = {"task": None, "model": source, "weights": keeping.fingerprint(model)}
    else:
        what = identity(task, source)
    cuts, measurement = request.cuts, request.measurement
    return {
        **what,
        "ratios": _list(cuts.ratios),
        "layers": cuts.layers and " ".join(cuts.layers),
        "targets": cuts.targets and " ".join(cuts.targets),
        "structure": cuts.structure,
        "prompts": measurement.prompts,
        "continuation": measurement.continuation,
        "search": request.search,
        "grid": request.grid,
        "device": str(model.device),
        **{name: version(name) for name in ("eckart", "torch", "transformers")},
    }


def _list(ratios: Sequence[float]) -> str:
    return ",".join(f"{ratio:g}" for ratio in ratios)
