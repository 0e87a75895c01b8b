"""`sweep`: one loaded model, truncated at many choices of layers, matrices and ratios, each measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from eckart import checkpoint
from eckart.compression.course import Course
from eckart.compression.memory_store import MemoryStore
from eckart.evaluation import Request, keeping, lower_is_better
from eckart.evaluation.measuring import identity, read_material
from eckart.model import loading, replacing
from eckart.model.targets import block_of
from eckart.recipes import making
from eckart.sweeping.asking import Asked, make_asked, require_parts
from eckart.sweeping.files import MEASURED, files
from eckart.sweeping.grid import BEST, Grid, Place, left, make_grid, rank_at
from eckart.sweeping.judging import ALL, REST, SEARCHED, SEEN, Judge
from eckart.sweeping.saving import save as save_model
from eckart.sweeping.searching import search as search_greedily
from eckart.sweeping.truncating import Truncated
from eckart.types import Cell, EckartError, Recipe, Step, Sweep, Track, UsageError, silent

CONTINUATION = 40
"""Tokens that a prompt is continued by."""
OnCell = Callable[[Cell], None]


def sweep(
    model: Any,
    out: str | Path | None = None,
    *,
    ratios: Sequence[float],
    layers: str | Sequence[str] | None = None,
    targets: str | Sequence[str] | None = None,
    structure: str = "lowrank",
    task: str | None = None,
    data: str | None = None,
    fields: str | None = None,
    limit: int | None = None,
    max_length: int | None = None,
    max_new_tokens: int | None = None,
    batch: int | None = None,
    allow_code_execution: bool = False,
    prompts: str | Sequence[str] = (),
    continuation: int = CONTINUATION,
    search: bool = False,
    grid: bool | None = None,
    save: str | Path | None = None,
    cell: str | None = None,
    merge: bool = False,
    tokenizer: Any = None,
    device: str = "cpu",
    dtype: str = "auto",
    debug: bool = False,
    track: Track = silent,
    on_cell: OnCell | None = None,
) -> Sweep:
    """LASER: truncate chosen weights of chosen layers, and measure what that does to the model.

    Weights are decomposed once, at the largest rank that is asked for, and truncated where they stand; the
    model is dense again afterwards, also after an error. Models of the grid that come to the same weights
    at the same ranks are measured once. `out` gets `sweep.json`, `cells.csv`, of a search `steps.csv`, and
    `report.html`; each measurement is on the disk as soon as it is there, and the same request goes on
    with those of a sweep that was stopped. What failed is measured again.

    Args:
        model: a folder, a hub id, `pocket`, or a loaded transformers model with its `tokenizer`.
        out: a new folder, or one with the same sweep begun. Without it nothing is kept.
        ratios: rank as a share of each weight's smaller side, rounded down and at least 1.
        layers: choices of blocks, each as for `compress`, with `A..B` for one choice for each number:
            `top:1..12`. Default `top:1..12`, or as far as the model goes; of a search alone every block.
        targets: choices of kinds of matrix, each names or globs by comma; default all together.
        structure: what a cut weight is counted and saved as, where that is cheaper than its product.
        task, data, fields, limit, max_length, max_new_tokens, batch, allow_code_execution: as for `evaluate`.
        prompts: to be continued by every model, by `continuation` tokens, greedily.
        search: the paper's greedy search, from the last block to the first, over the targets and layers
            named. It looks at every fifth text; all else is then measured on the others.
        grid: whether every ratio is tried with every choice; default unless there is a search.
        save: a folder for one of the models, as `compress` would save it: of a search what it found, else the
            best of the grid, or the one that `cell` names as `RATIO:LAYERS` or `RATIO:LAYERS:TARGETS`.
        merge: save it dense again, as large as before.
        device, dtype: as for `evaluate`.
        debug: show the tracebacks of models that fail on standard error.
        track: shows progress.
        on_cell: called with each model of the grid, the dense one first, once it is measured.

    Returns:
        What is in `sweep.json`. A model that could not be measured has an `error`, and there is a note on it.

    Raises:
        UsageError: the request is wrong; nothing was started.
        EckartError: the dense model could not be measured, or nothing could be written.
    """
    options = {
        "fields": fields,
        "limit": limit,
        "max_length": max_length,
        "max_new_tokens": max_new_tokens,
        "batch": batch,
        "allow_code_execution": allow_code_execution or None,
    }
    asked = make_asked(
        out=out,
        ratios=ratios,
        layers=layers,
        targets=targets,
        structure=structure,
        task=task,
        data=data,
        options=options,
        prompts=prompts,
        continuation=continuation,
        search=search,
        grid=grid,
        save=save,
        cell=cell,
        merge=merge,
    )
    folder = loading.find_model(model) if isinstance(model, (str, Path)) else None
    if folder is not None:
        source = loading.name_of(model, folder)
        config = loading.load_config(folder)
        loading.refuse_compressed(config)
        checkpoint.open_checkpoint(folder)
        _require_writing(asked, loading.generates(config), loading.model_class(config).__name__)
        # A wrong choice should cost nobody a model load.
        _grid(loading.build_empty(config), asked)
        material = _material(asked, loading.generates(config))
        tokenizer = loading.load_tokenizer(folder)
        model = loading.load_model(folder, device, dtype)
    else:
        loading.require_loaded(model)
        source = Path(getattr(model.config, "name_or_path", "")).name or type(model).__name__
        _require_writing(asked, bool(model.can_generate()), type(model).__name__)
        if tokenizer is None:
            raise UsageError("a loaded model needs its tokenizer too: pass tokenizer=")
        material = _material(asked, bool(model.can_generate()))
    replacing.require_finite(model)
    return _Sweeping(model, tokenizer, asked, material, source, folder, out, debug, track, on_cell).run()


class _Sweeping:
    """A sweep of a loaded model, on its way."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        asked: Asked,
        material: list[Any],
        source: str,
        folder: Path | None,
        out: str | Path | None,
        debug: bool,
        track: Track,
        on_cell: OnCell | None,
    ) -> None:
        self.asked, self.source, self.folder = asked, source, folder
        self.tokenizer, self.track, self.on_cell = tokenizer, track, on_cell
        self.grid = _grid(model, asked)
        recipe = making.make_recipe(method="laser", structure=asked.structure, ratio=max(asked.ratios))
        targets = self.grid.targets
        store = MemoryStore(model, tokenizer, targets, recipe, [], silent)
        self.bench = Course(store, targets, recipe).bench
        self.total = replacing.count_parameters(model)
        request = None
        if asked.task is not None and asked.settings is not None:
            request = Request(asked.task, model, tokenizer, material, asked.settings)
        self.kept = keeping.Kept(
            None if out is None else Path(out), _identity(asked, request, model, source), MEASURED, "key"
        )
        largest = {target.name: rank_at(max(asked.ratios), target) for target in self.grid.targets}
        self.truncated = Truncated(self.bench, largest)
        self.judge = Judge(
            self.truncated, tokenizer, request, asked.prompts, asked.continuation, self.kept, debug
        )
        self.part = REST if asked.search else ALL

    def run(self) -> Sweep:
        """Measure everything, write it, and save what was asked for."""
        asked = self.asked
        with self.truncated:
            dense = self.told(self.cell(1.0, "", "", {}))
            places = self.grid.places if asked.grid else []
            cells = [
                self.told(self.cell(place.ratio, place.layers, place.targets, place.ranks))
                for place in self.track(places, "measuring", len(places))
            ]
            start, steps, taken = self.search(dense)
            found = None
            if asked.search:
                ratios = [step.ratio for step in steps if step.taken]
                found = self.cell(fmean(ratios) if ratios else 1.0, "", "", taken)
            made = Sweep(
                eckart=version("eckart"),
                torch=version("torch"),
                transformers=version("transformers"),
                source=self.source,
                task=asked.task,
                metric=dense.metric,
                lower_is_better=lower_is_better(dense.metric or ""),
                data=asked.data and Path(asked.data).name,
                data_sha256=asked.data and checkpoint.file_digest(asked.data),
                prompts=asked.prompts,
                dense=dense,
                cells=cells,
                start=start,
                steps=steps,
                found=found,
                notes=[*self.grid.notes, *self.notes(cells, start, found)],
            )
            self.kept.finish_files(files(made))
            if asked.save is not None:
                self.save(made, asked.save)
        return made

    def cell(self, ratio: float, layers: str, targets: str, ranks: Mapping[str, int], part: str = "") -> Cell:
        """The model at these ranks, measured."""
        measured = asdict(self.judge.measure(ranks, part or self.part))
        parameters = left(self.total, self.grid.targets, ranks, self.asked.structure)
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

    def told(self, cell: Cell) -> Cell:
        """The same, once somebody was told of it."""
        if self.on_cell is not None:
            self.on_cell(cell)
        return cell

    def search(self, dense: Cell) -> tuple[Cell | None, list[Step], dict[str, int]]:
        """The dense model where the search begins, its steps, and the ranks it took."""
        if not self.asked.search:
            return None, [], {}
        steps, taken = search_greedily(
            self.judge,
            self.grid.targets,
            self.asked.ratios,
            lower_is_better(dense.metric or ""),
            self.asked.structure,
            self.total,
            self.track,
        )
        return self.cell(1.0, "", "", {}, SEEN), steps, taken

    def notes(self, cells: Sequence[Cell], start: Cell | None, found: Cell | None) -> list[str]:
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

    def save(self, made: Sweep, out: Path) -> None:
        """Write the model that was asked for."""
        asked = self.asked
        notes = []
        if made.found is not None and asked.cell is None:
            recipe, ranks = _recipe(asked, Place(1.0, "", "", {}), None), made.found.ranks
            notes.append(
                f"ranks were found by a greedy search over the ratios {_list(asked.ratios)}: no single one "
                "does it again"
            )
        else:
            place = self._chosen(made.cells)
            recipe, ranks = _recipe(asked, place, place.ratio), place.ranks
        save_model(
            self.truncated,
            self.tokenizer,
            ranks,
            recipe,
            self.source,
            self.folder,
            out,
            asked.merge,
            notes,
        )

    def _chosen(self, cells: Sequence[Cell]) -> Place:
        """The place that was named, or the best: ties go to the lower loss, then to the smaller model."""
        if self.asked.cell not in (None, BEST):
            return self.grid.find(self.asked.cell or "")
        scored = [
            (cell.value, cell.loss or 0.0, cell.parameters, place)
            for cell, place in zip(cells, self.grid.places, strict=True)
            if cell.value is not None and cell.error is None
        ]
        if not scored:
            raise EckartError("no model of the sweep could be measured: there is no best one to save")
        sign = 1 if lower_is_better(cells[0].metric or "") else -1
        return min(scored, key=lambda each: (sign * each[0], *each[1:3]))[3]


def _grid(model: Any, asked: Asked) -> Grid:
    layers = asked.layers
    if layers is None and not asked.grid:
        layers = [""]
    grid = make_grid(model, asked.ratios, layers, asked.targets)
    if asked.search and not any(block_of(model, target.name) for target in grid.targets):
        raise UsageError("--search goes from block to block, and none of the targets is in one")
    if asked.cell not in (None, BEST):
        grid.find(asked.cell or "")
    return grid


def _recipe(asked: Asked, place: Place, ratio: float | None) -> Recipe:
    """What would do it again, but for weights that are no smaller cut, which `compress` leaves alone.

    Args:
        ratio: `None` where there is not one for all.
    """
    names = [name.strip() for name in place.targets.split(",") if name.strip()]
    made = making.make_recipe(
        method="laser",
        structure=asked.structure,
        ratio=place.ratio,
        layers=place.layers or None,
        targets=names or None,
    )
    return made.model_copy(update={"ratio": ratio})


def _require_writing(asked: Asked, writes: bool, kind: str) -> None:
    if asked.prompts and not writes:
        raise UsageError(f"{kind} writes no text: leave --prompt out, and give --task stsb, say")


def _material(asked: Asked, generates: bool) -> list[Any]:
    """What the task reads, as much of it as is asked for."""
    if asked.task is None or asked.settings is None:
        return []
    material = read_material(asked.task, asked.data, generates, asked.fields)[: asked.settings.limit]
    require_parts(asked, material)
    return material


def _identity(asked: Asked, request: Request | None, model: Any, source: str) -> dict[str, Any]:
    """What makes a sweep the same as another one."""
    if request is None:
        what = {"task": None, "model": source, "weights": keeping.fingerprint(model)}
    else:
        what = identity(request, source)
    return {
        **what,
        "ratios": _list(asked.ratios),
        "layers": asked.layers and " ".join(asked.layers),
        "targets": asked.targets and " ".join(asked.targets),
        "structure": asked.structure,
        "prompts": asked.prompts,
        "continuation": asked.continuation,
        "search": asked.search,
        "grid": asked.grid,
        "device": str(model.device),
        **{name: version(name) for name in ("eckart", "torch", "transformers")},
    }


def _list(ratios: Sequence[float]) -> str:
    return ",".join(f"{ratio:g}" for ratio in ratios)
